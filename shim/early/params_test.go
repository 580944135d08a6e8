package early

import (
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptionsapi "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/shim/internal/cmdline"
)

var one = cmdline.Invocation{Action: "start", ID: "one", Namespace: "ns"}

// encoded is a message as containerd writes it.
func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// given are bootstrap parameters with options.
func given(t testing.TB, all ...proto.Message) *bootapi.BootstrapParams {
	t.Helper()
	p := &bootapi.BootstrapParams{
		InstanceID: "one", Namespace: "ns", ContainerdVersion: "2.4", ContainerdGrpcAddress: "/c.sock", ContainerdTtrpcAddress: "/t.sock", ContainerdBinary: "/bin/containerd",
	}
	for _, m := range all {
		if err := p.AddExtension(m); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// unlike is other parameters.
func unlike(p *bootapi.BootstrapParams, change func(*bootapi.BootstrapParams)) *bootapi.BootstrapParams {
	change(p)
	return p
}

func TestReadParams(t *testing.T) {
	dir := "/run/s"
	for name, test := range map[string]struct {
		params *bootapi.BootstrapParams
		plain  bool
	}{
		"no options":          {given(t), true},
		"runc's":              {given(t, &options.Options{BinaryName: "crun", Root: "/r", SystemdCgroup: true}), true},
		"a cgroup":            {given(t, &options.Options{ShimCgroup: "/shims"}), false},
		"TOML":                {given(t, &runtimeoptionsapi.Options{TypeUrl: "x", ConfigBody: []byte("SystemdCgroup = true")}), true},
		"a cgroup in TOML":    {given(t, &runtimeoptionsapi.Options{ConfigBody: []byte("shimCGroup = '/shims'")}), false},
		"a file":              {given(t, &runtimeoptionsapi.Options{ConfigPath: "/etc/x.toml"}), false},
		"of a kind not known": {given(t, &options.CheckpointOptions{}), false},
		"the second too":      {given(t, &options.Options{}, &options.Options{ShimCgroup: "/shims"}), false},
		"a socket directory":  {unlike(given(t), func(p *bootapi.BootstrapParams) { p.SocketDir = &dir }), true},
		"an error's level":    {unlike(given(t), func(p *bootapi.BootstrapParams) { p.LogLevel = bootapi.LogLevel_LOG_LEVEL_ERROR }), true},
		"debug":               {unlike(given(t), func(p *bootapi.BootstrapParams) { p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG }), false},
		"trace":               {unlike(given(t), func(p *bootapi.BootstrapParams) { p.LogLevel = bootapi.LogLevel_LOG_LEVEL_TRACE }), false},
		"another container":   {unlike(given(t), func(p *bootapi.BootstrapParams) { p.InstanceID = "two" }), false},
		"another namespace":   {unlike(given(t), func(p *bootapi.BootstrapParams) { p.Namespace = "other" }), false},
		"an empty extension":  {unlike(given(t), func(p *bootapi.BootstrapParams) { p.Extensions = []*bootapi.Extension{{Value: &anypb.Any{}}} }), false},
	} {
		t.Run(name, func(t *testing.T) {
			p, ok := readParams(one, encoded(t, test.params))
			if ok != test.plain {
				t.Fatalf("plain: %t", ok)
			}
			if ok {
				same(t, p, test.params)
			}
		})
	}
	for name, input := range map[string][]byte{
		"nothing":             nil,
		"what older ones say": encoded(t, &anypb.Any{TypeUrl: "containerd.runc.v1.Options"}),
		"cut short":           encoded(t, given(t))[:20],
		"a tag alone":         {0x0a},
		"a fixed number":      append(encoded(t, given(t)), 0x51, 1, 2, 3, 4, 5, 6, 7, 8),
		"no UTF-8":            append(encoded(t, given(t)), 0x32, 1, 0xff),
		"an odd tag":          append(encoded(t, given(t)), 0x07),
	} {
		if p, ok := readParams(one, input); ok {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// same compares what was read with what protobuf reads.
func same(t *testing.T, p params, want *bootapi.BootstrapParams) {
	t.Helper()
	if p.id != want.InstanceID || p.namespace != want.Namespace || p.address != want.ContainerdGrpcAddress ||
		p.socketDir != want.GetSocketDir() || p.level != int32(want.LogLevel) {
		t.Errorf("%+v, want %v", p, want)
	}
}

// FuzzReadParams compares with protobuf: whatever is taken for parameters is what protobuf makes of it, and no option that matters is missed.
func FuzzReadParams(f *testing.F) {
	f.Add(encoded(f, given(f, &options.Options{Root: "/r"})))
	f.Add(encoded(f, given(f, &options.Options{ShimCgroup: "/shims"})))
	f.Add(encoded(f, given(f, &runtimeoptionsapi.Options{ConfigBody: []byte("SystemdCgroup = true")})))
	f.Add(append(encoded(f, given(f)), 0x18, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	f.Fuzz(func(t *testing.T, input []byte) {
		p, ok := readParams(one, input)
		if !ok {
			return
		}
		var want bootapi.BootstrapParams
		if err := proto.Unmarshal(input, &want); err != nil {
			t.Fatalf("taken, and protobuf does not: %v", err)
		}
		same(t, p, &want)
		for _, e := range want.Extensions {
			var o options.Options
			if e.GetValue().MessageIs(&o) && e.GetValue().UnmarshalTo(&o) == nil && o.ShimCgroup != "" {
				t.Errorf("%v has a cgroup for the shim", &o)
			}
		}
	})
}

func TestResult(t *testing.T) {
	var got bootapi.BootstrapResult
	if err := proto.Unmarshal(result("unix:///run/s/x"), &got); err != nil {
		t.Fatal(err)
	}
	if want := (&bootapi.BootstrapResult{Version: 3, Address: "unix:///run/s/x", Protocol: "ttrpc"}); !proto.Equal(&got, want) {
		t.Errorf("%v, want %v", &got, want)
	}
}
