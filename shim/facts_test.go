package shim

import (
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
