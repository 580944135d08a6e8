package harness

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestOwnsCgroup(t *testing.T) {
	o := owner{dir: "/tmp/ff12345", namespace: "ff12345", ids: []string{"web"}, before: baseline{cgroups: map[string]bool{"/default/web": true}}}
	for path, want := range map[string]bool{
		"/ff12345":                      true,
		"/ff12345/other":                true,
		"/forefend/agent/ff12345:web":   true,
		"/forefend/agent/k8s.io:web":    true,
		"/forefend/agent/ff123456:web":  false,
		"/default/web":                  false, // was there before us
		"/ff123456/web":                 false, // somebody else's container of the same name
		"/forefend/agent/k8s.io:webber": false,
		"/":                             false,
	} {
		if got := o.ownsCgroup(path); got != want {
			t.Errorf("%s: got %v", path, got)
		}
	}
}

func TestOwnsProcess(t *testing.T) {
	o := owner{dir: "/tmp/ff12345", namespace: "ff12345"}
	for _, test := range []struct {
		name string
		p    process
		want bool
	}{
		{"shim", process{args: []string{"/x/bin/containerd-shim-forefend-v1", "-address", "/tmp/ff12345/containerd.sock"}}, true},
		{"shim of another", process{args: []string{"/x/bin/containerd-shim-forefend-v1", "-address", "/tmp/ff123456/containerd.sock"}}, false},
		{"shim in its bundle", process{args: []string{"containerd-shim-x-v1"}, links: []string{"/tmp/ff12345/state/x"}}, true},
		{"daemon by environment", process{args: []string{"forefend", "daemon"}, environ: []byte("A=b\x00FOREFEND_CONFIG=/tmp/ff12345/config.toml\x00")}, true},
		{"environment of another", process{args: []string{"forefend"}, environ: []byte("FOREFEND_CONFIG=/tmp/ff12345/config.toml.old\x00")}, false},
		{"container process", process{args: []string{"sleep"}, cgroups: []string{"/ff12345/web"}}, true},
		{"somebody looking", process{args: []string{"tail", "-f", "/tmp/ff12345/containerd.log"}, links: []string{"/tmp/ff12345"}}, false},
		{"kernel thread", process{}, false},
	} {
		if got := o.owns(test.p); got != test.want {
			t.Errorf("%s: got %v", test.name, got)
		}
	}
}

func TestReadProcess(t *testing.T) {
	p, err := readProcess(os.Getpid())
	if err != nil || p.parent != os.Getppid() || p.zombie || !slices.Equal(p.args, os.Args) || len(p.cgroups) == 0 || len(p.environ) == 0 {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := readProcess(1 << 30); err == nil {
		t.Error("read a process that cannot be")
	}
}

func TestProcessIs(t *testing.T) {
	p := process{args: []string{"/x/bin/forefend", "daemon", "--config", "c"}}
	if !p.is("forefend", "daemon") || p.is("forefend", "tunneld") || p.is("fore") || (process{}).is("forefend") {
		t.Error("wrong program or words")
	}
}

func TestParseMounts(t *testing.T) {
	text := `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:4 net:[4026532280] /run/netns/a\040b rw shared:9 master:1 - nsfs nsfs rw
garbage
`
	want := []mount{{point: "/", kind: "ext4"}, {point: "/run/netns/a b", kind: "nsfs"}}
	if got := parseMounts(text); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCheck(t *testing.T) {
	ok := Result{Args: []string{"ctr", "run"}}
	if err := ok.Check(); err != nil {
		t.Error(err)
	}
	bad := Result{Args: []string{"ctr", "run"}, Code: 7, Stderr: "no such image\n"}
	if err := bad.Check(); err == nil || !strings.Contains(err.Error(), "ctr run: exit status 7: no such image") {
		t.Errorf("got %v", err)
	}
}
