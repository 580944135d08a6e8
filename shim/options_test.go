package shim

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func marshalAny(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	out, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRuncOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "options.toml")
	if err := os.WriteFile(file, []byte("from the file"), 0o600); err != nil {
		t.Fatal(err)
	}
	runc := marshalAny(t, &options.Options{SystemdCgroup: true})
	if out, err := runcOptions(&anypb.Any{TypeUrl: "runtimeoptions.v1.Options"}, nil); out != nil || err != nil {
		t.Errorf("options that say nothing became %v %v", out, err)
	}
	defaults := marshalAny(t, &options.Options{})
	if out, err := runcOptions(defaults, nil); out != defaults || err != nil {
		t.Errorf("runc's, all of them the defaults, became %v %v", out, err)
	}
	for name, test := range map[string]struct {
		in   *anypb.Any
		body string // what is to be decoded; empty: nothing
	}{
		"none":    {nil, ""},
		"runc's":  {runc, ""},
		"CRI's":   {marshalAny(t, &runtimeoptions.Options{TypeUrl: "x", ConfigBody: []byte("as it came")}), "as it came"},
		"in file": {marshalAny(t, &runtimeoptions.Options{ConfigPath: file, ConfigBody: []byte("no")}), "from the file"},
	} {
		decoded := ""
		out, err := runcOptions(test.in, func(body []byte) (*options.Options, error) {
			decoded = string(body)
			return &options.Options{SystemdCgroup: true}, nil
		})
		if err != nil || decoded != test.body {
			t.Errorf("%s: decoded %q, error %v", name, decoded, err)
			continue
		}
		if test.in != nil && (out.TypeUrl != runc.TypeUrl || string(out.Value) != string(runc.Value)) {
			t.Errorf("%s became %v", name, out)
		}
	}
}

func TestRuncOptionsRefuses(t *testing.T) {
	refuse := func([]byte) (*options.Options, error) { return nil, errors.New("no") }
	for name, in := range map[string]*anypb.Any{
		"malformed": marshalAny(t, &runtimeoptions.Options{ConfigBody: []byte("?")}),
		"no file":   marshalAny(t, &runtimeoptions.Options{ConfigPath: "/nonexistent"}),
		"directory": marshalAny(t, &runtimeoptions.Options{ConfigPath: "/"}),
		"foreign":   marshalAny(t, &options.ProcessDetails{ExecID: "x"}),
		"unknown":   {TypeUrl: "no.such.Type", Value: []byte{1}},
		"damaged":   {TypeUrl: legacyOptions, Value: []byte{0x52}},
		"cut short": {TypeUrl: legacyOptions, Value: []byte{0x80}},
	} {
		if _, err := runcOptions(in, refuse); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s options: error %v, want an invalid argument", name, err)
		}
	}
}

// TestLegacyOptions reads what a client of containerd 1.x sends to a runtime it takes for an old one.
func TestLegacyOptions(t *testing.T) {
	var body []byte
	number := func(field protowire.Number, n uint64) {
		body = protowire.AppendVarint(protowire.AppendTag(body, field, protowire.VarintType), n)
	}
	text := func(field protowire.Number, s string) {
		body = protowire.AppendString(protowire.AppendTag(body, field, protowire.BytesType), s)
	}
	number(1, 1)
	number(4, 1)    // terminal
	text(6, "pid")  // empty_namespaces
	text(7, "soft") // cgroups_mode
	number(8, 1)
	text(9, "/shims")
	number(10, 1000)
	number(11, 1001)
	text(12, "/work")
	text(13, "/image")
	body = protowire.AppendFixed32(protowire.AppendTag(body, 99, protowire.Fixed32Type), 1)
	want := &options.Options{
		NoPivotRoot: true, NoNewKeyring: true, ShimCgroup: "/shims", IoUid: 1000, IoGid: 1001, CriuWorkPath: "/work", CriuImagePath: "/image",
	}
	for _, url := range []string{legacyOptions, "types.containerd.io/" + legacyOptions} {
		out, err := runcOptions(&anypb.Any{TypeUrl: url, Value: body}, nil)
		if err != nil {
			t.Fatal(err)
		}
		v, err := typeurl.UnmarshalAny(out)
		if got, ok := v.(*options.Options); err != nil || !ok || !proto.Equal(got, want) {
			t.Errorf("%v %v", v, err)
		}
	}
}

// TestLostOptions: containerd 1.6 drops the options of a runtime it does not know; the systemd driver shows in the spec.
func TestLostOptions(t *testing.T) {
	for name, test := range map[string]struct {
		asked *anypb.Any
		want  bool
	}{
		"none":     {nil, false},
		"empty":    {&anypb.Any{TypeUrl: "runtimeoptions.v1.Options"}, true},
		"TOML":     {marshalAny(t, &runtimeoptions.Options{ConfigBody: []byte("x=1")}), false},
		"of runc":  {marshalAny(t, &options.Options{}), false},
		"of a URL": {&anypb.Any{TypeUrl: "types.containerd.io/runtimeoptions.v1.Options"}, true},
	} {
		if got := lostOptions(test.asked); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for path, systemd := range map[string]bool{
		"kubepods-burstable-pod1.slice:cri-containerd:abc": true, "system.slice:x:y": true, "a.slice::y": true,
		"": false, "/kubepods/pod1/abc": false, "/a.slice:b:c": false, "a.slice:b": false, "a.slice:b:c:d": false, "a:b:c": false, "a.slice:b:": false,
	} {
		out, err := driverOfPath(&specs.Spec{Linux: &specs.Linux{CgroupsPath: path}})
		if err != nil {
			t.Fatal(err)
		}
		if (out != nil) != systemd {
			t.Errorf("%q: %v", path, out)
		}
	}
	if out, err := driverOfPath(&specs.Spec{}); out != nil || err != nil {
		t.Errorf("a spec without linux: %v %v", out, err)
	}
}

func FuzzLegacyOptions(f *testing.F) {
	f.Add([]byte{0x08, 1, 0x4a, 1, 'x'})
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := fromLegacy(body); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", body, err)
		}
	})
}
