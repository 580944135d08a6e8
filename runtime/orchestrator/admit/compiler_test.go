package admit

import (
	"fmt"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/seccomp"
)

// Everything a compilation depends on must change the fingerprint: a collision would give one container another's profile.
func TestFingerprint(t *testing.T) {
	errno := uint(1)
	plan := func(change func(*callPlan)) callPlan {
		p := callPlan{fallback: seccomp.Watch, profile: &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read", "write"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 2, Op: specs.OpEqualTo}}}},
		}}
		change(&p)
		return p
	}
	none := verdicts{native: make([]seccomp.Verdict, 3)}
	rule := func(change func(*specs.LinuxSyscall)) callPlan {
		return plan(func(p *callPlan) { change(&p.profile.Syscalls[0]) })
	}
	inputs := []struct {
		p callPlan
		v verdicts
	}{
		{plan(func(*callPlan) {}), none},
		{plan(func(p *callPlan) { p.ours = true }), none},
		{plan(func(p *callPlan) { p.foreign = true }), none},
		{plan(func(p *callPlan) { p.fallback = seccomp.Native }), none},
		{plan(func(p *callPlan) { p.profile.DefaultAction = specs.ActAllow }), none},
		{plan(func(p *callPlan) { p.profile.DefaultErrnoRet = &errno }), none},
		{plan(func(p *callPlan) { p.profile.DefaultErrnoRet = new(uint) }), none},
		{plan(func(p *callPlan) { p.profile.Architectures = nil }), none},
		{plan(func(p *callPlan) { p.profile.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog} }), none},
		{plan(func(p *callPlan) { p.profile.Syscalls = nil }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Action = specs.ActLog }), none},
		{rule(func(s *specs.LinuxSyscall) { s.ErrnoRet = &errno }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Names = []string{"readwrite"} }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Names = []string{"rea", "dwrite"} }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Args = nil }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Args[0].Index = 2 }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Args[0].Value = 3 }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Args[0].ValueTwo = 1 }), none},
		{rule(func(s *specs.LinuxSyscall) { s.Args[0].Op = specs.OpNotEqual }), none},
		{plan(func(*callPlan) {}), verdicts{native: []seccomp.Verdict{0, 0, 1}}},
		{plan(func(*callPlan) {}), verdicts{native: make([]seccomp.Verdict, 4)}},
		{plan(func(*callPlan) {}), verdicts{native: none.native, others: map[string]seccomp.Verdict{"waitpid": 0}}},
		{plan(func(*callPlan) {}), verdicts{native: none.native, others: map[string]seccomp.Verdict{"waitpid": 1}}},
	}
	seen := make(map[string]int)
	for i, in := range inputs {
		key := fmt.Sprintf("%x", fingerprint(in.p, in.v))
		if j, ok := seen[key]; ok {
			t.Errorf("inputs %d and %d have one fingerprint", i, j)
		}
		seen[key] = i
		if again := fmt.Sprintf("%x", fingerprint(in.p, in.v)); again != key {
			t.Errorf("input %d has two fingerprints", i)
		}
	}
}

// A hostile stream of profiles does not fill the daemon's memory, and the containers of one workload share what they can.
func TestCompilerIsBoundedAndShared(t *testing.T) {
	c := &Compiler{}
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			for i := range maxCompiled {
				in := asked(t, nil)
				in.Compiler = c
				in.Request.Facts.ID.Container = fmt.Sprintf("c-%d-%d", worker, i)
				in.Request.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
					{Names: []string{"read", "write", "execve", fmt.Sprintf("made_up_%d", i+worker)}, Action: specs.ActAllow},
				}}
				d, err := Decide(in)
				if err != nil || d.Seccomp.ListenerMetadata != in.Request.Facts.ID.String() {
					t.Errorf("%v, listener for %q", err, d.Seccomp.ListenerMetadata)
				}
			}
		})
	}
	wait.Wait()
	if len(c.by) != maxCompiled {
		t.Errorf("%d profiles are remembered, not %d", len(c.by), maxCompiled)
	}
	in := withDefaultProfile(asked(t, nil))
	in.Compiler = c
	one, two := decide(t, in), decide(t, in)
	if &one.Table[0] != &two.Table[0] {
		t.Error("compiled twice")
	}
	if one.Seccomp == two.Seccomp {
		t.Error("decisions share what differs: the listener")
	}
}
