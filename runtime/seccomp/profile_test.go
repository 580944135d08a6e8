package seccomp

import (
	"encoding/json"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// The copy of containerd's default profile is the one of the release that go.mod names; else run `go run gen_default.go`.
func TestDefaultIsContainerds(t *testing.T) {
	sets := [][]string{nil, cap.Known(), {"CAP_SYS_ADMIN", "CAP_BPF", "CAP_CHOWN"}, {"CAP_BPF", "CAP_BPF", "CAP_NONE"}}
	for _, c := range cap.Known() {
		sets = append(sets, []string{c})
	}
	for _, set := range sets {
		spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: set}}}
		want, err := json.Marshal(seccomp.DefaultProfile(spec))
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(DefaultProfile(spec))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("for %v:\n%s\ncontainerd has\n%s", set, got, want)
		}
	}
}

// What one caller writes into its profile is not in the next one's.
func TestDefaultIsTheCallers(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_BPF"}}}}
	text := func(p *specs.LinuxSeccomp) string {
		body, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	p := DefaultProfile(spec)
	before := text(p)
	p.Architectures[0] = "mine"
	for _, r := range p.Syscalls {
		r.Names[0] = "mine"
		for i := range r.Args {
			r.Args[i].Value = 7
		}
		if r.ErrnoRet != nil {
			*r.ErrnoRet = 7
		}
	}
	if after := text(DefaultProfile(spec)); after != before {
		t.Errorf("two callers share a profile:\n%s\nwas\n%s", after, before)
	}
}
