package shim

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A missing profile is somebody's wish only where the client would have written one.
func TestUnconfined(t *testing.T) {
	nerdctl := map[string]string{nerdctlNamespace: "default"}
	for name, c := range map[string]struct {
		spec specs.Spec
		want string
	}{
		"ctr without --seccomp":      {specs.Spec{Linux: &specs.Linux{}}, ""},
		"nerdctl, unconfined":        {specs.Spec{Linux: &specs.Linux{}, Annotations: nerdctl}, "nerdctl"},
		"nerdctl, default profile":   {specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{}}, Annotations: nerdctl}, ""},
		"nerdctl, not a Linux image": {specs.Spec{Annotations: nerdctl}, ""},
	} {
		if got := unconfined(&c.spec); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
