package bootstrap

import (
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"forefend.dev/forefend/shim/internal/cmdline"
)

// start is how containerd 1.6 to 2.2 starts a shim.
var start = []string{"-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/bin/containerd", "-id", "one", "start"}

// translate runs Translate with given standard input and returns what a daemon
// reads, and what main was given.
func translate(t *testing.T, args []string, input []byte, main func(*bootapi.BootstrapParams)) (output string, given []byte) {
	t.Helper()
	t.Chdir(t.TempDir())
	stdin, err := memoryFile("in", input)
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := memoryFile("out", nil)
	if err != nil {
		t.Fatal(err)
	}
	in, out := os.Stdin, os.Stdout
	os.Stdin, os.Stdout = stdin, stdout
	defer func() { os.Stdin, os.Stdout = in, out; stdin.Close(); stdout.Close() }()
	err = Translate(args, os.Stdin, func() {
		given, _ = io.ReadAll(os.Stdin)
		var p bootapi.BootstrapParams
		if err := proto.Unmarshal(given, &p); err != nil {
			t.Errorf("main is given what is no bootstrap parameters: %v", err)
		}
		main(&p)
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(io.NewSectionReader(stdout, 0, maxInput))
	if err != nil {
		t.Fatal(err)
	}
	return string(body), given
}

func answer(t *testing.T) {
	t.Helper()
	body, err := proto.Marshal(&bootapi.BootstrapResult{Version: 3, Address: "unix:///s", Protocol: "ttrpc"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.Write(body); err != nil {
		t.Fatal(err)
	}
}

func TestOlderDaemonGetsTheBareAddress(t *testing.T) {
	opts, err := anypb.New(&options.Options{ShimCgroup: "/shims", SystemdCgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	opts.TypeUrl = "containerd.runc.v1.Options" // as containerd writes it
	input, err := proto.Marshal(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TTRPC_ADDRESS", "/c.sock.ttrpc")
	output, _ := translate(t, append([]string{"-debug"}, start...), input, func(p *bootapi.BootstrapParams) {
		if p.InstanceID != "one" || p.Namespace != "ns" || p.ContainerdGrpcAddress != "/c.sock" ||
			p.ContainerdTtrpcAddress != "/c.sock.ttrpc" || p.LogLevel != bootapi.LogLevel_LOG_LEVEL_DEBUG {
			t.Errorf("main is given %v", p)
		}
		var runc options.Options
		if found, err := p.FindExtension(&runc); !found || err != nil || runc.ShimCgroup != "/shims" {
			t.Errorf("runtime options are lost: %v %v %v", found, err, &runc)
		}
		answer(t)
	})
	if output != "unix:///s" {
		t.Errorf("the daemon reads %q, want the bare address", output)
	}
	if left, err := os.ReadFile(AddressFile); err != nil || string(left) != "unix:///s" {
		t.Errorf("left in the bundle: %q %v", left, err)
	}
	if files, err := os.ReadDir("."); err != nil || len(files) != 1 {
		t.Errorf("%v %v in the bundle", files, err)
	}
}

// TestContainerd2GetsJSON: 2.0 to 2.2 start a shim as 1.x does and read another answer.
func TestContainerd2GetsJSON(t *testing.T) {
	before := readsJSON
	defer func() { readsJSON = before }()
	readsJSON = func() bool { return true }
	output, _ := translate(t, start, nil, func(*bootapi.BootstrapParams) { answer(t) })
	if output != `{"version":3,"address":"unix:///s","protocol":"ttrpc"}` {
		t.Errorf("the daemon reads %q", output)
	}
}

func TestOfContainerd2(t *testing.T) {
	module := func(path string) *debug.Module { return &debug.Module{Path: path} }
	for name, test := range map[string]struct {
		info debug.BuildInfo
		want bool
	}{
		"1.7":          {debug.BuildInfo{Path: "github.com/containerd/containerd/cmd/containerd", Main: *module("github.com/containerd/containerd")}, false},
		"2.x":          {debug.BuildInfo{Path: containerd2 + "/cmd/containerd", Main: *module(containerd2)}, true},
		"no modules":   {debug.BuildInfo{Path: containerd2 + "/cmd/containerd"}, true},
		"not far from": {debug.BuildInfo{Path: containerd2 + "x/cmd/containerd"}, false},
		"built in":     {debug.BuildInfo{Path: "example.org/k", Deps: []*debug.Module{module("example.org/a"), module(containerd2)}}, true},
		"1.7 built in": {debug.BuildInfo{Path: "example.org/k", Deps: []*debug.Module{module("github.com/containerd/containerd")}}, false},
	} {
		if got := ofContainerd2(&test.info); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if readsJSON() {
		t.Error("the parent of a test is no containerd")
	}
}

// TestForeignOptionsArrive: the shim's manager converts them.
func TestForeignOptionsArrive(t *testing.T) {
	input, err := proto.Marshal(&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	translate(t, start, input, func(p *bootapi.BootstrapParams) {
		if e := p.GetExtensions(); len(e) != 1 || e[0].Value.TypeUrl != "runtimeoptions.v1.Options" || string(e[0].Value.Value) != "x" {
			t.Errorf("extensions %v", e)
		}
		answer(t)
	})
}

func TestOlderDaemonWithoutOptions(t *testing.T) {
	output, _ := translate(t, start, nil, func(*bootapi.BootstrapParams) { answer(t) })
	if output != "unix:///s" {
		t.Errorf("the daemon reads %q, want the bare address", output)
	}
}

func TestNewerDaemonIsLeftAlone(t *testing.T) {
	input, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "one", Namespace: "ns", ContainerdVersion: "2.4.2"})
	if err != nil {
		t.Fatal(err)
	}
	output, given := translate(t, start, input, func(*bootapi.BootstrapParams) { answer(t) })
	if !slices.Equal(given, input) {
		t.Error("the parameters a newer daemon sent were changed")
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal([]byte(output), &result); err != nil || result.Version != 3 {
		t.Errorf("a newer daemon reads %q", output)
	}
}

func TestOtherActionsPassThrough(t *testing.T) {
	for _, args := range [][]string{{"-namespace", "ns", "-id", "one", "delete"}, {"-v"}, {"-no-such-flag"}, {}} {
		called := false
		stdin := os.Stdin
		if err := Translate(args, os.Stdin, func() { called = os.Stdin == stdin }); err != nil || !called {
			t.Errorf("%q: main called with its own standard input: %v, error %v", args, called, err)
		}
	}
}

func TestShimWithoutAnAnswerIsAnError(t *testing.T) {
	stdin, err := memoryFile("in", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	in := os.Stdin
	os.Stdin = stdin
	defer func() { os.Stdin = in }()
	if err := Translate(start, os.Stdin, func() {}); err == nil {
		t.Error("a shim that printed nothing passes for started")
	}
}

// FuzzParams turns whatever an older daemon writes into parameters that upstream takes, with the identity of the flags.
func FuzzParams(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x0a\x03one\x12\x02ns"))
	for _, m := range []proto.Message{
		&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte("\x1a\x06/shims")},
		&anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: []byte{0xff}},
		&anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: []byte("\x12\x01x")},
		&bootapi.BootstrapParams{InstanceID: "one", Namespace: "other"},
		&bootapi.BootstrapParams{InstanceID: "one", Namespace: "ns", LogLevel: 77},
	} {
		body, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		v := invocation{cmdline.Invocation{ID: "one", Namespace: "ns", Address: "/c.sock", Publisher: "/bin/containerd"}}
		if v.sent(input) {
			return
		}
		body, err := v.params(input)
		if err != nil {
			return
		}
		var p bootapi.BootstrapParams
		if !v.sent(body) || proto.Unmarshal(body, &p) != nil || p.ContainerdGrpcAddress != v.Address || p.ContainerdBinary != v.Publisher {
			t.Errorf("%q became parameters that upstream would refuse: %v", input, &p)
		}
		if v.sent(body) && len(body) > len(input)+4096 {
			t.Errorf("%d bytes became %d", len(input), len(body))
		}
	})
}

// FuzzTranslate plays both ends of the start protocol: a daemon with any flags and input, and a shim with any answer.
// A daemon reads what it understands or nothing: an older one a bare address, a newer one what main wrote.
func FuzzTranslate(f *testing.F) {
	reply := func(m *bootapi.BootstrapResult) []byte {
		body, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return body
	}
	newer, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "one", Namespace: "ns"})
	if err != nil {
		f.Fatal(err)
	}
	good := reply(&bootapi.BootstrapResult{Version: 3, Address: "unix:///s", Protocol: "ttrpc"})
	flags := strings.Join(start, "\x00")
	f.Add(flags, []byte{}, good)
	f.Add(flags, newer, good)
	f.Add(flags, newer, []byte("no protobuf"))
	f.Add(flags, []byte("\x0a\x1acontainerd.runc.v1.Options\x12\x00"), reply(&bootapi.BootstrapResult{Version: 3}))
	f.Add("-id\x00one\x00-debug\x00start\x00more", []byte{0xff}, []byte{})
	f.Add("-v", []byte{}, []byte("version"))
	f.Add("-no-such-flag\x00start", []byte{}, []byte("usage"))
	f.Fuzz(func(t *testing.T, args string, input, reply []byte) {
		t.Chdir(t.TempDir()) // Translate leaves the address in the bundle
		stdin, err := memoryFile("in", input)
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := memoryFile("out", nil)
		if err != nil {
			t.Fatal(err)
		}
		in, out := os.Stdin, os.Stdout
		os.Stdin, os.Stdout = stdin, stdout
		defer func() { os.Stdin, os.Stdout = in, out; stdin.Close(); stdout.Close() }()
		calls := 0
		var given []byte
		err = Translate(strings.Split(args, "\x00"), os.Stdin, func() {
			calls++
			given, _ = io.ReadAll(os.Stdin)
			_, _ = os.Stdout.Write(reply)
		})
		said, rerr := io.ReadAll(io.NewSectionReader(stdout, 0, maxInput))
		if rerr != nil {
			t.Fatal(rerr)
		}
		parsed, perr := cmdline.Parse(strings.Split(args, "\x00"))
		v := invocation{parsed}
		var result bootapi.BootstrapResult
		switch asked := perr == nil && v.Action == "start"; {
		case calls > 1 || err == nil && calls == 0:
			t.Errorf("main was called %d times: %v", calls, err)
		case !asked && (err != nil || string(said) != string(reply)):
			t.Errorf("another action's output %q became %q: %v", reply, said, err)
		case asked && err != nil && len(said) > 0:
			t.Errorf("failed with %v, and yet the daemon reads %q", err, said)
		case asked && v.sent(input) && (err != nil || string(said) != string(reply) || string(given) != string(input)):
			t.Errorf("a newer daemon's start was touched: %v", err)
		case asked && !v.sent(input) && err == nil && (proto.Unmarshal(reply, &result) != nil || result.Address != string(said) || len(said) == 0):
			t.Errorf("an older daemon reads %q of %q", said, reply)
		}
	})
}
