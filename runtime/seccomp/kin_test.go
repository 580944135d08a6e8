package seccomp

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// asking is a responder whose call at hand is made by pid.
func asking(pid int, name string, args ...uint64) *responder {
	nr, _ := Number(name)
	r := &responder{}
	r.n.pid, r.n.nr, r.n.arch = uint32(pid), int32(nr), nativeAuditArch
	copy(r.n.args[:], args)
	return r
}

func sleeper(t *testing.T, program string) int {
	t.Helper()
	cmd := exec.Command(program, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func TestAmongKin(t *testing.T) {
	self := os.Getpid()
	one, two := sleeper(t, "/bin/sleep"), sleeper(t, "/bin/sleep")
	pidfd, err := unix.PidfdOpen(one, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	for name, c := range map[string]struct {
		r    *responder
		want bool
	}{
		"traced by the parent, after execve": {asking(one, "ptrace", unix.PTRACE_TRACEME), false},
		"a tracee's registers":               {asking(one, "ptrace", unix.PTRACE_GETREGS, uint64(self)), true},
		"attach to a child":                  {asking(self, "ptrace", unix.PTRACE_ATTACH, uint64(one)), true},
		"seize a child":                      {asking(self, "ptrace", unix.PTRACE_SEIZE, uint64(one)), true},
		"attach to the parent":               {asking(one, "ptrace", unix.PTRACE_ATTACH, uint64(self)), false},
		"attach to a sibling":                {asking(one, "ptrace", unix.PTRACE_ATTACH, uint64(two)), false},
		"attach to process 1":                {asking(one, "ptrace", unix.PTRACE_ATTACH, 1), false},
		"attach to nobody":                   {asking(self, "ptrace", unix.PTRACE_ATTACH, 1<<30), false},
		"attach to everybody":                {asking(self, "ptrace", unix.PTRACE_ATTACH, 1<<64-1), false},
		"read from a sibling":                {asking(one, "process_vm_readv", uint64(two)), true},
		"read from the parent":               {asking(one, "process_vm_readv", uint64(self)), false},
		"write to itself":                    {asking(one, "process_vm_writev", uint64(one)), true},
		"compare oneself with a stranger":    {asking(one, "kcmp", uint64(one), uint64(self)), false},
		"compare descriptors of one's own":   {asking(one, "kcmp", uint64(one), uint64(one)), true},
		"a child's descriptor":               {asking(self, "pidfd_getfd", uint64(pidfd)), true},
		"no pidfd":                           {asking(self, "pidfd_getfd", 0), false},
		"one's own memory":                   {asking(one, "process_madvise", uint64(1<<64-10000)), true},
		"another call":                       {asking(self, "keyctl"), false},
	} {
		if got := c.r.amongKin(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAsksForFilterStops(t *testing.T) {
	const options = unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESECCOMP
	foreign := asking(1, "ptrace", unix.PTRACE_SETOPTIONS, 2, 0, options)
	foreign.n.nr, foreign.n.arch = int32(foreignNumbering().byName["ptrace"]), foreignAuditArch
	for name, c := range map[string]struct {
		r    *responder
		want bool
	}{
		"options":                {asking(1, "ptrace", unix.PTRACE_SETOPTIONS, 2, 0, options), true},
		"options of long ago":    {asking(1, "ptrace", 21, 2, 0, options), true},
		"seized with options":    {asking(1, "ptrace", unix.PTRACE_SEIZE, 2, 0, options), true},
		"a 32-bit call":          {foreign, true},
		"other options":          {asking(1, "ptrace", unix.PTRACE_SETOPTIONS, 2, 0, unix.PTRACE_O_TRACEEXEC), false},
		"data of another kind":   {asking(1, "ptrace", unix.PTRACE_POKEDATA, 2, 0, options), false},
		"another call's numbers": {asking(1, "prctl", unix.PTRACE_SETOPTIONS, 2, 0, options), false},
	} {
		if got := c.r.asksForFilterStops(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestSharesMemory(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if !closeKin(unix.Gettid(), os.Getpid()) || !closeKin(os.Getpid(), unix.Gettid()) {
		t.Error("threads of a process are no kin")
	}
}

// Kernels before 6.11 cannot be asked about numbers.
func TestSearched(t *testing.T) {
	child := sleeper(t, "/bin/sleep")
	self, ok := statusOf(os.Getpid())
	if !ok {
		t.Fatal("no status of our own")
	}
	inner, _ := statusOf(child)
	if got := searched(self.process, inner.inner); got != child {
		t.Errorf("got %d, want %d", got, child)
	}
	if got := searched(self.process, 1<<30); got != 0 {
		t.Errorf("found %d", got)
	}
}

func TestJustForked(t *testing.T) {
	if justForked(os.Getpid()) || justForked(1<<30) {
		t.Error("this process was executed")
	}
}

// Denials towards others stay denials for whoever looks at the table alone, and a
// decision about the call by name ends the exception.
func TestKinInTheTable(t *testing.T) {
	requested := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"ptrace", "keyctl", "write", "execve"}, Action: specs.ActAllow},
	}}
	req := Request{Requested: requested, Fallback: Watch, Verdicts: map[string]Verdict{"ptrace": Deny, "keyctl": Deny}, Kin: []string{"ptrace", "keyctl", "kcmp"}}
	_, table := compiled(t, req)
	look := func(name string) Decision {
		nr, _ := Number(name)
		return table.Decide(int32(nr), nativeAuditArch, &[maxArgs]uint64{})
	}
	for name, kin := range map[string]bool{"ptrace": true, "keyctl": false, "kcmp": false} { // kcmp was not requested
		if d := look(name); d.Verdict != Deny || d.Kin != kin {
			t.Errorf("%s: %+v", name, d)
		}
	}
	body, err := table.MarshalBinary()
	must(t, err)
	var again Table
	must(t, again.UnmarshalBinary(body))
	if !again.Equal(table) {
		t.Error("lost on the way through its binary form")
	}
	must(t, table.SetVerdict("ptrace", Deny, NoException))
	if look("ptrace").Kin {
		t.Error("denied by name, and still not among kin")
	}
}

// A denial of the container's own surprises goes through the binary form, and ends when the call is decided by name.
func TestOwnInTheTable(t *testing.T) {
	requested := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"chmod", "mkdir", "write", "execve"}, Action: specs.ActAllow},
	}}
	_, table := compiled(t, Request{Requested: requested, Fallback: Watch, Verdicts: map[string]Verdict{"chmod": Deny, "mkdir": Deny}, Own: []string{"chmod", "chown"}})
	body, err := table.MarshalBinary()
	must(t, err)
	var again Table
	must(t, again.UnmarshalBinary(body))
	look := func(name string) Decision {
		nr, _ := Number(name)
		return again.Decide(int32(nr), nativeAuditArch, &[maxArgs]uint64{})
	}
	for name, own := range map[string]bool{"chmod": true, "mkdir": false, "chown": false} { // chown was not requested
		if d := look(name); d.Verdict != Deny || d.Own != own {
			t.Errorf("%s: %+v", name, d)
		}
	}
	must(t, again.SetVerdict("chmod", Deny, NoException))
	if look("chmod").Own {
		t.Error("denied by name, and still not to executed processes")
	}
}
