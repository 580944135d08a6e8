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
	} {
		if _, err := runcOptions(in, refuse); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s options: error %v, want an invalid argument", name, err)
		}
	}
}
