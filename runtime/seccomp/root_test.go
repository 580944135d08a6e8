package seccomp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hotNative is what a first run's policy says: hot calls native.
func hotNative() map[string]Verdict {
	m := make(map[string]Verdict)
	for _, name := range Names() {
		if Classify(name) == ClassHot {
			m[name] = Native
		}
	}
	return m
}

func firstRun() Request { return Request{Verdicts: hotNative(), Fallback: Watch} }

// attempts maps probe commands to the errno stock runc's default profile answers
// (the same must come out under Forefend) and to the call whose denial is reported.
var attempts = []struct{ command, want, reported string }{
	{"unshare", "1", "unshare"}, {"mount", "1", "mount"}, {"bpf", "1", "bpf"}, {"keyctl", "1", "keyctl"},
	{"io_uring_setup", "1", "io_uring_setup"}, {"open_by_handle_at", "1", "open_by_handle_at"},
	{"clone_newuser", "1", "clone"}, {"clone3", "38", ""}, {"socket_alg", "1", ""}, {"personality_bad", "1", ""}, {"unknown", "38", ""},
	// These pass: the filter lets them, and the kernel's own answer comes back.
	{"umask", "ok", ""}, {"personality", "ok", ""}, {"socket_bad", "22", ""}, {"ptrace", "3", ""}, {"prctl", "22", ""},
}

func commands() (all []string) {
	for _, a := range attempts {
		all = append(all, a.command)
	}
	return all
}

func checkAttempts(t *testing.T, out string) {
	t.Helper()
	got := strings.Fields(out)
	for i, a := range attempts {
		if want := a.command + "=" + a.want; i >= len(got) || got[i] != want {
			t.Errorf("answer %d: want %s, got %q", i, want, got)
		}
	}
}

// With and without no-new-privileges runc loads the filter at different moments.
func TestRootSupervisedRunAnswersLikeStock(t *testing.T) {
	requireRoot(t)
	for _, noNewPrivileges := range []bool{true, false} {
		t.Run(fmt.Sprintf("no_new_privileges=%t", noNewPrivileges), func(t *testing.T) {
			stock := newBox(t)
			stock.spec.Process.NoNewPrivileges = noNewPrivileges
			stock.spec.Linux.Seccomp = DefaultProfile(stock.spec)
			out, err := stock.output(commands()...)
			if err != nil {
				t.Fatalf("stock run: %v\n%s", err, out)
			}
			checkAttempts(t, out)

			b := newBox(t)
			b.spec.Process.NoNewPrivileges = noNewPrivileges
			c, events := b.attach(b.compile(firstRun()))
			if out, err = b.output(commands()...); err != nil {
				t.Fatalf("supervised run: %v\n%s", err, out)
			}
			checkAttempts(t, out)
			checkReports(t, c, events)
		})
	}
}

func checkReports(t *testing.T, c *Container, events *record) {
	t.Helper()
	counts := c.Counts()
	for _, a := range attempts {
		if a.reported == "" {
			continue
		}
		if counts.Denied[a.reported] != 1 {
			t.Errorf("%s: denied %d times, want 1", a.reported, counts.Denied[a.reported])
		}
		eventually(t, "event for "+a.reported, func() bool { return len(events.find(a.reported)) == 1 })
		e := events.find(a.reported)[0]
		if e.Verdict != Deny || e.Errno != 1 || e.Comm != "probe" || e.Exe != "/probe" || e.Origin != OriginInit || e.Class != ClassDangerous {
			t.Errorf("event %+v", e)
		}
	}
	// runc's own calls are nobody's: the only program executed is the workload.
	if counts.Allowed["execve"] != 1 || counts.Allowed["umask"] != 1 || counts.Allowed["prctl"] != 1 || counts.Allowed["capset"] != 0 || counts.Allowed["setgroups"] != 0 {
		t.Errorf("allowed: %v", counts.Allowed)
	}
	if counts.Refused != 0 || counts.EventsDropped != 0 {
		t.Errorf("refused or dropped: %+v", counts)
	}
}

// The operator's StartContainer hook runs behind the filter before the workload
// does: it passes whatever it does, is not counted, and does not end runc's phase.
func TestRootHooksBelongToTheOperator(t *testing.T) {
	requireRoot(t)
	b := newBox(t)
	req := firstRun()
	req.Verdicts["umask"] = Deny
	c, _ := b.attach(b.compile(req))
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/probe", Args: []string{"probe", "require:umask=ok"}}}}
	out, err := b.output("umask")
	if err != nil || strings.TrimSpace(out) != "umask=1" {
		t.Fatal(err, out)
	}
	if n := c.Counts(); n.Denied["umask"] != 1 || n.Allowed["umask"] != 0 || n.Allowed["execve"] != 1 {
		t.Errorf("counts %+v", n)
	}
}

func TestRootVerdictsChangeLive(t *testing.T) {
	requireRoot(t)
	b := newBox(t)
	c, events := b.attach(b.compile(firstRun()))
	p := b.start()
	set := func(name string, v Verdict) {
		t.Helper()
		table := c.Table().Clone()
		must(t, table.SetVerdict(name, v, NoException))
		c.SetTable(table)
	}
	want := func(command, result string) {
		t.Helper()
		if got := p.do(command); got != command+"="+result {
			t.Errorf("got %s, want %s=%s", got, command, result)
		}
	}
	want("umask", "ok")
	want("ptrace", "3")
	want("ptrace_filter_stops", "22") // 3 where the kernel has them to give
	set("umask", Deny)
	want("umask", "1")
	want("umask", "1")
	set("umask", Watch)
	want("umask", "ok")
	set("ptrace", Deny)
	want("ptrace", "1")
	if err := c.Table().Clone().SetVerdict("mount", Watch, NoException); !errors.Is(err, ErrNotRequested) {
		t.Errorf("mount was opened beyond the requested profile: %v", err)
	}
	if err := c.Table().Clone().SetVerdict("write", Deny, NoException); !errors.Is(err, ErrNotWatched) {
		t.Errorf("write: %v", err)
	}
	p.end()
	counts := c.Counts()
	if counts.Allowed["umask"] != 2 || counts.Denied["umask"] != 2 || counts.Allowed["ptrace"] != 1 || counts.Denied["ptrace"] != 1 {
		t.Errorf("counts %+v", counts)
	}
	eventually(t, "one event per verdict", func() bool { return len(events.find("umask")) == 2 })
}

func TestRootKillVerdicts(t *testing.T) {
	requireRoot(t)
	for name, live := range map[string]bool{"in the kernel": false, "by the supervisor": true} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			req := firstRun()
			if !live {
				req.Verdicts["umask"] = Kill
			}
			table := b.compile(req)
			if live {
				must(t, table.SetVerdict("umask", Kill, NoException))
			}
			c, _ := b.attach(table)
			out, err := b.output("personality", "umask", "personality")
			if err == nil || strings.Contains(out, "umask") || !strings.Contains(out, "personality=ok") {
				t.Errorf("the probe lived: %v %s", err, out)
			}
			if live && c.Counts().Denied["umask"] != 1 {
				t.Errorf("counts %+v", c.Counts())
			}
		})
	}
}

func TestRootExecBringsItsOwnListener(t *testing.T) {
	requireRoot(t)
	b := newBox(t)
	c, events := b.attach(b.compile(firstRun()))
	p := b.start()
	for range 3 {
		out, err := within10s(t, b.runc("exec", b.id, "/probe", "unshare", "umask"))
		if err != nil || strings.Join(strings.Fields(out), " ") != "unshare=1 umask=ok" {
			t.Fatalf("exec: %v %s", err, out)
		}
	}
	// A shell makes processes of its own behind one listener.
	out, err := within10s(t, b.runc("exec", b.id, "/bin/sh", "-c", "/probe unshare; /probe umask"))
	if err != nil || strings.Join(strings.Fields(out), " ") != "unshare=1 umask=ok" {
		t.Fatalf("exec of a shell: %v %s", err, out)
	}
	eventually(t, "only the first process still has a listener", func() bool { return c.listeners.count() == 1 })
	if got := p.do("umask"); got != "umask=ok" {
		t.Error(got)
	}
	p.end()
	eventually(t, "no listener is left", func() bool { return c.listeners.count() == 0 })
	if n := c.Counts(); n.Allowed["execve"] != 1+3+3 || n.Denied["unshare"] != 4 || n.Allowed["umask"] != 5 {
		t.Errorf("counts %+v", n)
	}
	if n := c.Counts(); n.Programs["/bin/sh"] != 1 || n.Programs["/probe"] != 6 || n.ProgramsLost != 0 {
		t.Errorf("programs %v, %d lost", n.Programs, n.ProgramsLost)
	}
	calls, err := c.TakeTrace().Calls()
	order := make(map[string]int)
	for _, call := range calls {
		order[call.Name] += call.Count
	}
	if err != nil || order["umask"] != 5 || order["execve"] != 7 || order["unshare"] != 0 {
		t.Errorf("in order %v, %v", order, err)
	}
	eventually(t, "the event", func() bool { return len(events.find("unshare")) == 1 })
	if e := events.find("unshare")[0]; e.Origin != OriginExec {
		t.Errorf("event %+v", e)
	}
}

// count returns how many listeners are open.
func (s *listeners) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestRootNothingIsLeftBehind(t *testing.T) {
	requireRoot(t)
	warm := newBox(t)
	warm.output("umask") // opens what Go keeps open for good
	for name, closeEarly := range map[string]bool{"after exit": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
			b := newBox(t)
			s := NewSupervisor(Config{})
			c, err := s.Attach(context.Background(), b.id, b.socket, b.compile(firstRun()))
			must(t, err)
			if closeEarly {
				p := b.start()
				must(t, c.Close())
				if got := p.do("umask"); got != "umask=38" { // ENOSYS: nobody answers
					t.Error(got)
				}
				p.end()
			} else if out, err := b.output("umask"); err != nil {
				t.Fatal(err, out)
			}
			must(t, c.Close())
			must(t, s.Close())
			if _, err := os.Lstat(b.socket); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("socket is left: %v", err)
			}
			eventually(t, "descriptors", func() bool { return openDescriptors(t) <= descriptors })
			eventually(t, "goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
		})
	}
}

func TestRootFlood(t *testing.T) {
	requireRoot(t)
	calls := 1_000_000
	if testing.Short() {
		calls = 50_000
	}
	flooded, quiet := newBox(t), newBox(t)
	s := NewSupervisor(Config{OnEvent: func(Event) {}})
	t.Cleanup(func() { must(t, s.Close()) })
	c, err := s.Attach(context.Background(), flooded.id, flooded.socket, flooded.compile(firstRun()))
	must(t, err)
	other, err := s.Attach(context.Background(), quiet.id, quiet.socket, quiet.compile(firstRun()))
	must(t, err)
	attacker, neighbour := flooded.start(), quiet.start()
	before := heap()
	done := make(chan string, 1)
	go func() { done <- attacker.do(fmt.Sprintf("flood:mount,%d,8", calls)) }()
	answered := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
			if got := neighbour.do("umask"); got != "umask=ok" {
				t.Fatal(got)
			}
			answered++
		}
	}
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	// A signal that meets an answer makes the kernel repeat the call (see Counts).
	if got := c.Counts().Denied["mount"]; got < uint64(calls) || got > uint64(calls+calls/100) {
		t.Errorf("denied %d of %d", got, calls)
	}
	if got := other.Counts().Allowed["umask"]; got < uint64(answered) || got > uint64(answered+answered/100+1) || answered < 10 {
		t.Errorf("neighbour was answered %d times, counted %d", answered, got)
	}
	attacker.end()
	neighbour.end()
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestRootDestinations(t *testing.T) {
	requireRoot(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer udp.Close()
	b := newBox(t)
	// The host's network, so that loopback is up; nothing leaves it.
	b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[:4]
	c, _ := b.attach(b.compile(firstRun()))
	tcpAddr, udpAddr := "tcp/"+tcp.Addr().String(), "udp/"+udp.LocalAddr().String()
	out, err := b.output("connect:"+tcpAddr, "connect:"+tcpAddr, "connect:"+udpAddr)
	if err != nil || strings.Count(out, "connect=ok") != 3 {
		t.Fatal(err, out)
	}
	n := c.Counts()
	if n.Destinations[tcpAddr] != 2 || n.Destinations[udpAddr] != 1 || len(n.Destinations) != 2 || n.DestinationsLost != 0 {
		t.Errorf("destinations %v, lost %d", n.Destinations, n.DestinationsLost)
	}
}

// requireForeign skips on a machine whose kernel takes no 32-bit calls, which a container without any filter tells.
func requireForeign(t *testing.T) {
	t.Helper()
	if out, err := newBox(t).output("int80"); strings.TrimSpace(out) == "int80=fault" {
		t.Skip("this machine's kernel takes no 32-bit calls, filtered or not")
	} else if strings.TrimSpace(out) != "int80=ok" {
		t.Fatalf("a 32-bit call without a filter: %v %s", err, out)
	}
}

func TestRootForeignArchitecture(t *testing.T) {
	requireRoot(t)
	requireForeign(t)
	for keep, want := range map[bool]string{false: "int80=killed", true: "int80=ok"} {
		b := newBox(t)
		req := firstRun()
		req.ForeignArch = keep
		b.attach(b.compile(req))
		out, err := b.output("int80")
		if strings.TrimSpace(out) != want {
			t.Errorf("foreign architecture kept=%t: %v %s", keep, err, out)
		}
	}
}

// Profiles whose rules are awkward must mean the same to the kernel after Compile.
func TestRootAwkwardProfiles(t *testing.T) {
	requireRoot(t)
	arg := func(i uint, op specs.LinuxSeccompOperator, v, v2 uint64) []specs.LinuxSeccompArg {
		return []specs.LinuxSeccompArg{{Index: i, Op: op, Value: v, ValueTwo: v2}}
	}
	eperm, enosys := uint(unix.EACCES), uint(unix.ENOSYS)
	deny := func(errno *uint, args []specs.LinuxSeccompArg, names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActErrno, ErrnoRet: errno, Args: args}
	}
	profiles := map[string]*specs.LinuxSeccomp{
		"allows everything": {DefaultAction: specs.ActAllow},
		"logs everything":   {DefaultAction: specs.ActLog},
		"denies some": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			deny(&eperm, nil, "umask", "ptrace"),
			deny(&eperm, arg(0, specs.OpEqualTo, 38, 0), "socket"),
			deny(&eperm, arg(0, specs.OpEqualTo, 0xffffffff, 0), "personality"), deny(&eperm, arg(0, specs.OpEqualTo, 0x400000, 0), "personality"),
			deny(&eperm, arg(0, specs.OpMaskedEqual, unix.CLONE_NEWUSER, unix.CLONE_NEWUSER), "clone"),
			deny(&enosys, nil, "clone3"),
		}},
		"default errno is ENOSYS": {DefaultAction: specs.ActErrno, DefaultErrnoRet: &enosys, Syscalls: DefaultProfile(boxSpec("x")).Syscalls},
	}
	for name, profile := range profiles {
		t.Run(name, func(t *testing.T) {
			stock := newBox(t)
			stock.spec.Linux.Seccomp = profile
			want, err := stock.output(commands()...)
			if err != nil {
				t.Fatal(err, want)
			}
			b := newBox(t)
			req := firstRun()
			req.Requested = profile
			b.attach(b.compile(req))
			got, err := b.output(commands()...)
			if err != nil {
				t.Fatal(err, got)
			}
			compareNarrower(t, strings.Fields(want), strings.Fields(got))
		})
	}
}

// compareNarrower accepts a difference only for clone3 and calls nobody knows,
// which Compile turns into ENOSYS on purpose.
func compareNarrower(t *testing.T, want, got []string) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("stock %q, supervised %q", want, got)
	}
	for i := range want {
		if want[i] != got[i] && got[i] != "clone3=38" && got[i] != "unknown=38" {
			t.Errorf("stock %s, supervised %s", want[i], got[i])
		}
	}
}

// A watched 32-bit call is looked up by its own number.
func TestRootForeignCallIsCounted(t *testing.T) {
	requireRoot(t)
	requireForeign(t)
	b := newBox(t)
	req := firstRun()
	req.ForeignArch = true
	req.Verdicts["getpid"] = Native // indispensable anyway
	c, _ := b.attach(b.compile(req))
	out, err := b.output("int80_umask", "umask")
	if err != nil || !strings.Contains(out, "int80_umask=ok") {
		t.Fatal(err, out)
	}
	if n := c.Counts().Allowed["umask"]; n != 2 {
		t.Errorf("umask counted %d times, want one native and one 32-bit call", n)
	}
}

// The facts about libseccomp on which Compile and weigh rest: P allows or notifies,
// E denies; umask(18) is called. The action of P makes no difference to the order.
func TestRootRuleOrder(t *testing.T) {
	requireRoot(t)
	equal := []specs.LinuxSeccompArg{{Op: specs.OpEqualTo, Value: 18}}
	below := []specs.LinuxSeccompArg{{Op: specs.OpLessThan, Value: 100}}
	for _, c := range []struct {
		first, second string // P or E, conditional on equal or below
		want          string
	}{
		{"P", "E", "ok"}, {"E", "P", "5"}, // the first unconditional rule wins
		{"P=", "E", "5"}, {"E", "P=", "5"}, {"P", "E=", "ok"}, {"E=", "P", "ok"}, // and over conditional ones
		{"P=", "E<", "ok"}, {"E<", "P=", "ok"}, {"P<", "E=", "5"}, {"E=", "P<", "5"}, // whose order does not matter
	} {
		for _, allow := range []specs.LinuxSeccompAction{specs.ActAllow, specs.ActNotify} {
			b := newBox(t)
			profile := DefaultProfile(b.spec)
			profile.Syscalls[0].Names = slices.DeleteFunc(profile.Syscalls[0].Names, func(n string) bool { return n == "umask" })
			profile.ListenerPath = b.socket
			for _, r := range []string{c.first, c.second} {
				s := specs.LinuxSyscall{Names: []string{"umask"}, Action: allow, Args: map[string][]specs.LinuxSeccompArg{"=": equal, "<": below}[r[1:]]}
				if r[0] == 'E' {
					s.Action, s.ErrnoRet = specs.ActErrno, ptr(uint(5))
				}
				profile.Syscalls = append(profile.Syscalls, s)
			}
			b.spec.Linux.Seccomp = profile
			b.attach(&Table{}) // execve is native here, so the starting phase passes all
			if out, err := b.output("umask"); err != nil || strings.TrimSpace(out) != "umask="+c.want {
				t.Errorf("%s %s with %s: %s %v, want %s", c.first, c.second, allow, out, err, c.want)
			}
		}
	}
}
