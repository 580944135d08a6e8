package seccomp

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ruleCount is what runc compiles for each architecture.
func ruleCount(p *specs.LinuxSeccomp) int {
	n := 0
	for _, s := range p.Syscalls {
		n += len(s.Names)
	}
	return n
}

// An open profile is a shorter way of writing the closed one down: every call that has a name fares alike, before and
// after live changes.
func TestOpenMeansTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	opened := 0
	for round := range 300 {
		req := Request{Requested: DefaultProfile(nil), Verdicts: hotNative(), Fallback: Watch, ForeignArch: true, ListenerPath: "/x"}
		if round%3 != 0 {
			req.Requested = randomProfile(r, []string{"clone", "clone3", "unshare", "prctl", "execve", "socket", "personality", "mount", "umask", "bpf"})
			req.Requested.DefaultAction, req.Requested.DefaultErrnoRet = specs.ActAllow, nil
			req.Requested.Architectures = DefaultProfile(nil).Architectures
		}
		for _, name := range Names() {
			if r.IntN(4) == 0 && !indispensable(name) && name != "execve" {
				req.Verdicts[name] = Verdict(r.IntN(4))
			}
		}
		closed, closedTable, err := Compile(req)
		if errors.Is(err, ErrUnsupportedProfile) {
			continue
		}
		must(t, err)
		req.AllowUnknown = true
		open, table, err := Compile(req)
		must(t, err)
		if open.DefaultAction != specs.ActAllow {
			continue // conditions that leave a remainder
		}
		opened++
		if len(open.Syscalls) > 0 && ruleCount(open) >= ruleCount(closed) {
			t.Errorf("round %d: %d rules, closed it has %d", round, ruleCount(open), ruleCount(closed))
		}
		change := Names()[r.IntN(len(Names()))]
		for _, tables := range []*Table{closedTable, table} {
			_ = tables.SetVerdict(change, Deny, NoException) // refused for what is not watched: by both
		}
		samples := sampleArgs(req.Requested, r)
		names := Names()
		for _, row := range foreignSyscalls {
			names = append(names, row.name)
		}
		for _, name := range names {
			args := samples[r.IntN(len(samples))]
			if got, want := final(open, table, name, &args), final(closed, closedTable, name, &args); got != want {
				t.Fatalf("round %d: %s%x: %d, closed %d", round, name, args, got, want)
			}
		}
	}
	if opened < 110 { // 100 are the default profile
		t.Errorf("only %d profiles could be opened", opened)
	}
}

// What is decided by conditions that leave a remainder stays closed: the remainder was denied.
func TestOpenKeepsRemaindersDenied(t *testing.T) {
	partial := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "execve"}, Action: specs.ActAllow},
		{Names: []string{"ioctl"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 7, Op: specs.OpEqualTo}}},
	}}
	profile, table, err := Compile(Request{Requested: partial, Verdicts: map[string]Verdict{"ioctl": Native}, Fallback: Watch, AllowUnknown: true, ListenerPath: "/x"})
	must(t, err)
	if profile.DefaultAction != specs.ActErrno || final(profile, table, "ioctl", &[maxArgs]uint64{0, 8}) != denied {
		t.Errorf("default %s lets ioctl(_, 8) pass", profile.DefaultAction)
	}
}
