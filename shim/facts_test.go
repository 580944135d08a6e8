package shim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/workload"
)

// A missing profile is somebody's wish only where the client would have written one.
func TestUnconfined(t *testing.T) {
	cri := map[string]string{criSandboxID: "pod"}
	nerdctl := map[string]string{nerdctlNamespace: "default"}
	for name, c := range map[string]struct {
		spec      specs.Spec
		namespace string
		want      string
	}{
		"ctr without --seccomp":         {specs.Spec{Linux: &specs.Linux{}}, "default", ""},
		"nerdctl, unconfined":           {specs.Spec{Linux: &specs.Linux{}, Annotations: nerdctl}, "default", "nerdctl"},
		"nerdctl, default profile":      {specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{}}, Annotations: nerdctl}, "default", ""},
		"CRI, no profile or unconfined": {specs.Spec{Linux: &specs.Linux{}, Annotations: cri}, "k8s.io", workload.ThroughCRI},
		"CRI, a profile":                {specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{}}, Annotations: cri}, "k8s.io", ""},
		"claims to come from CRI":       {specs.Spec{Linux: &specs.Linux{}, Annotations: cri}, "default", ""},
		"nerdctl, not a Linux image":    {specs.Spec{Annotations: nerdctl}, "default", ""},
	} {
		if got := unconfined(&c.spec, c.namespace); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestClosed(t *testing.T) {
	dir := t.TempDir()
	file, program := filepath.Join(dir, "hosts"), filepath.Join(dir, "init")
	for name, mode := range map[string]os.FileMode{file: 0o644, program: 0o755} {
		if err := os.WriteFile(name, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		mount specs.Mount
		want  bool
	}{
		"of the kernel":         {specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"}, true},
		"a file":                {specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: file}, true},
		"a program":             {specs.Mount{Destination: "/sbin/init", Type: "bind", Source: program}, false},
		"a directory":           {specs.Mount{Destination: "/data", Type: "bind", Source: dir}, false},
		"no type":               {specs.Mount{Destination: "/data", Source: dir, Options: []string{"rbind"}}, false},
		"nothing can be run":    {specs.Mount{Destination: "/data", Type: "bind", Source: dir, Options: []string{"noexec"}}, true},
		"a token":               {specs.Mount{Destination: serviceAccount + "serviceaccount", Type: "bind", Source: dir}, true},
		"shared memory":         {specs.Mount{Destination: "/dev/shm", Type: "bind", Source: dir}, true},
		"gone, so who can tell": {specs.Mount{Destination: "/x", Type: "bind", Source: filepath.Join(dir, "x")}, false},
	} {
		if got := closed([]specs.Mount{{Type: "tmpfs", Destination: "/run"}, c.mount}); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
