package seccomp

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite golden files")

func compiled(t testing.TB, req Request) (*specs.LinuxSeccomp, *Table) {
	t.Helper()
	req.ListenerPath = "/run/n.sock"
	profile, table, err := Compile(req)
	must(t, err)
	return profile, table
}

func TestDefaultProfileGolden(t *testing.T) {
	admin := boxSpec("x")
	admin.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
	for name, req := range map[string]Request{
		"default":       {Requested: DefaultProfile(nil), Verdicts: hotNative(), Fallback: Watch},
		"default-admin": {Requested: DefaultProfile(admin), Verdicts: hotNative(), Fallback: Watch},
		"allow-all":     {Requested: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, Verdicts: hotNative(), Fallback: Watch},
	} {
		t.Run(name, func(t *testing.T) {
			profile, table := compiled(t, req)
			golden(t, name+".golden", describe(profile, table))
		})
	}
}

// describe writes one sorted line a rule and a table entry.
func describe(profile *specs.LinuxSeccomp, table *Table) string {
	var lines []string
	for _, s := range profile.Syscalls {
		args, err := json.Marshal(s.Args)
		if err != nil {
			panic(err)
		}
		for _, name := range s.Names {
			line := fmt.Sprintf("rule %s %s", name, s.Action)
			if s.ErrnoRet != nil {
				line += fmt.Sprintf(" errno=%d", *s.ErrnoRet)
			}
			if len(s.Args) > 0 {
				line += " " + string(args)
			}
			lines = append(lines, line)
		}
	}
	for name, v := range table.Verdicts() {
		e := table.named(name)[0]
		lines = append(lines, fmt.Sprintf("table %s %s fixed=%t errno=%d outside=%d clauses=%d", name, v, e.flags&flagFixed != 0, e.errno, e.outside, len(e.clauses)))
	}
	slices.Sort(lines)
	return fmt.Sprintf("default %s %v\n", profile.DefaultAction, profile.Architectures) + strings.Join(lines, "\n") + "\n"
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if string(want) != got {
		t.Errorf("%s differs; run go test -update and read the diff", path)
	}
}

func TestCompileTiers(t *testing.T) {
	requested := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "write", "mkdir", "rmdir", "chdir", "umask", "execve", "bpf"}, Action: specs.ActAllow},
		{Names: []string{"prctl"}, Action: specs.ActLog},
		{Names: []string{"mount"}, Action: specs.ActTrap},
	}}
	verdicts := map[string]Verdict{"mkdir": Native, "rmdir": Deny, "chdir": Kill, "execve": Native, "read": Watch, "bpf": Deny, "mount": Native}
	profile, table := compiled(t, Request{Requested: requested, Verdicts: verdicts, Fallback: Watch})
	var none [maxArgs]uint64
	for name, want := range map[string]specs.LinuxSeccompAction{
		"read": specs.ActAllow, "write": specs.ActAllow, "mkdir": specs.ActAllow, "rmdir": specs.ActNotify, "chdir": specs.ActKillProcess,
		"umask": specs.ActNotify, "execve": specs.ActNotify, "bpf": specs.ActNotify, "mount": specs.ActTrap, "prctl": specs.ActNotify,
		"keyctl": specs.ActNotify, "getpid": specs.ActErrno, // keyctl: dangerous, not requested, shown; getpid: not requested
	} {
		if got := weigh(profile, name, &none); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := weigh(profile, "prctl", &[maxArgs]uint64{unix.PR_SET_VMA}); got != specs.ActLog {
		t.Errorf("prctl(PR_SET_VMA): %s, want the requested %s", got, specs.ActLog)
	}
	for name, want := range map[string]Verdict{"rmdir": Deny, "umask": Watch, "execve": Watch, "bpf": Deny, "keyctl": Deny} {
		if got, ok := table.Verdict(name); got != want || !ok {
			t.Errorf("table: %s %s, want %s", name, got, want)
		}
	}
	// io_uring_setup has a higher number than anything requested: runc answers
	// ENOSYS there, and a rule would change that for the calls between.
	if _, shown := table.Verdict("io_uring_setup"); shown {
		t.Error("a rule above the highest requested number")
	}
	must(t, table.SetVerdict("bpf", Watch, NoException)) // requested, so it may be opened live
	if err := table.SetVerdict("keyctl", Watch, NoException); !errors.Is(err, ErrNotRequested) {
		t.Errorf("keyctl: %v", err)
	}
}

func TestCompileErrors(t *testing.T) {
	allow := func(names ...string) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActAllow}}}
	}
	two := []specs.LinuxSeccompArg{{Op: specs.OpEqualTo}, {Index: 1, Op: specs.OpEqualTo}}
	for name, c := range map[string]struct {
		req  Request
		want error
	}{
		"own listener": {Request{Requested: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, ListenerPath: "/x",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActNotify}}}}, ErrOwnListener},
		"notify by default": {Request{Requested: &specs.LinuxSeccomp{DefaultAction: specs.ActNotify}}, ErrUnsupportedProfile},
		"no write":          {Request{Requested: allow("write"), Verdicts: map[string]Verdict{"write": Deny}}, ErrIndispensable},
		"deadly execve":     {Request{Requested: allow("execve"), Verdicts: map[string]Verdict{"execve": Kill}}, ErrIndispensable},
		"picky about read": {Request{Requested: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read"}, Action: specs.ActErrno, Args: two}}}}, ErrUnsupportedProfile},
		"nothing requested": {Request{}, nil},
		"unknown operator": {Request{Requested: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"umask"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_MAYBE"}}}}}}, nil},
		"seventh argument": {Request{Requested: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"umask"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}}}, nil},
	} {
		c.req.ListenerPath = "/run/n.sock"
		c.req.Fallback = Watch
		profile, table, err := Compile(c.req)
		if err == nil || profile != nil || table != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, _, err := Compile(Request{Requested: allow("read")}); err == nil {
		t.Error("no listener path, but no error")
	}
	// What the fallback denies must not keep runc from starting anything.
	if _, _, err := Compile(Request{Requested: DefaultProfile(nil), Fallback: Deny, ListenerPath: "/x"}); err != nil {
		t.Error(err)
	}
}

func TestCompileLeavesTheRequestAlone(t *testing.T) {
	requested := DefaultProfile(nil)
	before, err := json.Marshal(requested)
	must(t, err)
	profile, _ := compiled(t, Request{Requested: requested, Fallback: Watch})
	for i := range profile.Syscalls {
		for j := range profile.Syscalls[i].Args {
			profile.Syscalls[i].Args[j].Value = 4711
		}
		for j := range profile.Syscalls[i].Names {
			profile.Syscalls[i].Names[j] = "changed"
		}
	}
	after, err := json.Marshal(requested)
	must(t, err)
	if string(before) != string(after) {
		t.Error("the requested profile was changed")
	}
}

func TestArchitectures(t *testing.T) {
	for keep, want := range map[bool][]specs.Arch{false: {nativeArch}, true: {nativeArch, foreignArch}} {
		profile, table := compiled(t, Request{Requested: DefaultProfile(nil), Fallback: Watch, ForeignArch: keep})
		got := slices.Clone(profile.Architectures)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || (len(table.foreign) > 0) != keep {
			t.Errorf("foreign=%t: %v, %d foreign entries", keep, got, len(table.foreign))
		}
	}
	// Not asked for, so not kept either.
	narrow := DefaultProfile(nil)
	narrow.Architectures = nil
	if profile, _ := compiled(t, Request{Requested: narrow, Fallback: Watch, ForeignArch: true}); len(profile.Architectures) != 0 {
		t.Errorf("architectures %v appeared", profile.Architectures)
	}
}

// Denying unshare must close the other ways to a namespace too, also live.
func TestNamespacesFollowUnshare(t *testing.T) {
	admin := boxSpec("x")
	admin.Process.Capabilities.Bounding = []string{"CAP_SYS_ADMIN"}
	thread, user := [maxArgs]uint64{unix.CLONE_THREAD}, [maxArgs]uint64{unix.CLONE_NEWUSER}
	profile, table := compiled(t, Request{Requested: DefaultProfile(admin), Fallback: Watch})
	check := func(name string, args *[maxArgs]uint64, want result) {
		t.Helper()
		if got := final(profile, table, name, args); got != want {
			t.Errorf("%s%x: %d, want %d", name, args[:1], got, want)
		}
	}
	check("clone", &thread, passed)
	check("clone", &user, passed)
	check("clone3", &user, passed)
	if weigh(profile, "clone", &thread) != specs.ActAllow || weigh(profile, "clone", &user) != specs.ActNotify {
		t.Error("threads must be native, namespaces watched")
	}
	must(t, table.SetVerdict("unshare", Deny, NoException))
	check("clone", &thread, passed)
	check("clone", &user, denied)
	check("clone3", &user, denied)
	if clone3, _ := Number("clone3"); table.Decide(int32(clone3), nativeAuditArch, &user).Errno != int32(unix.ENOSYS) {
		t.Error("clone3 must answer ENOSYS")
	}
	must(t, table.SetVerdict("unshare", Watch, NoException))
	check("clone", &user, passed)

	profile, table = compiled(t, Request{Requested: DefaultProfile(admin), Fallback: Watch, Verdicts: map[string]Verdict{"unshare": Deny}})
	check("clone", &user, denied)
	if weigh(profile, "clone3", &thread) != specs.ActErrno {
		t.Error("clone3 must be out of reach when unshare is")
	}
}

// sampleArgs are arguments around every constant the profile compares with.
func sampleArgs(profile *specs.LinuxSeccomp, r *rand.Rand) [][maxArgs]uint64 {
	samples := [][maxArgs]uint64{{}, {^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}}
	for _, s := range profile.Syscalls {
		for _, a := range s.Args {
			for _, v := range []uint64{a.Value, a.Value - 1, a.Value + 1, a.ValueTwo, a.Value & r.Uint64(), r.Uint64()} {
				var args [maxArgs]uint64
				for i := range args {
					args[i] = r.Uint64() & 0xff
				}
				args[a.Index] = v
				samples = append(samples, args)
			}
		}
	}
	return samples
}

// randomProfile draws rules as people and tools write them, and worse.
func randomProfile(r *rand.Rand, names []string) *specs.LinuxSeccomp {
	pick := func(actions ...specs.LinuxSeccompAction) specs.LinuxSeccompAction {
		return actions[r.IntN(len(actions))]
	}
	errno := uint(1 + r.IntN(100))
	p := &specs.LinuxSeccomp{DefaultAction: pick(specs.ActErrno, specs.ActErrno, specs.ActAllow, specs.ActLog, specs.ActKillProcess, specs.ActTrap)}
	operators := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	for range r.IntN(30) {
		s := specs.LinuxSyscall{Names: []string{names[r.IntN(len(names))], names[r.IntN(len(names))]},
			Action: pick(specs.ActAllow, specs.ActAllow, specs.ActLog, specs.ActErrno, specs.ActKillProcess)}
		if s.Action == specs.ActErrno {
			s.ErrnoRet = &errno
		}
		for range max(0, r.IntN(5)-2) {
			a := specs.LinuxSeccompArg{Index: uint(r.IntN(3)), Op: operators[r.IntN(len(operators))], Value: r.Uint64N(64)}
			if a.Op == specs.OpMaskedEqual {
				a.ValueTwo = a.Value & r.Uint64()
			}
			s.Args = append(s.Args, a)
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

// The law of this package: whatever is requested and decided, before and after any
// live change, no call goes further than the requested profile lets it.
func TestNeverWiderThanRequested(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	few := []string{"clone", "clone3", "unshare", "prctl", "execve", "socket", "personality", "mount", "umask", "read", "ioctl", "bpf", "no_such_call"}
	all := Names()
	rounds := 800
	if testing.Short() {
		rounds = 300
	}
	tested := 0
	for range rounds {
		names := few
		if r.IntN(4) == 0 {
			names = all
		}
		requested := randomProfile(r, names)
		if r.IntN(10) == 0 {
			requested = DefaultProfile(nil)
			names = all
		}
		req := Request{Requested: requested, Verdicts: map[string]Verdict{}, Fallback: Verdict(r.IntN(4)), ListenerPath: "/x"}
		req.AllowUnknown = permissive(requested.DefaultAction) && r.IntN(2) == 0
		for _, name := range names {
			if r.IntN(2) == 0 && !indispensable(name) {
				req.Verdicts[name] = Verdict(r.IntN(4))
			}
		}
		delete(req.Verdicts, "execve")
		if req.Fallback == Kill {
			req.Fallback = Watch
		}
		profile, table, err := Compile(req)
		if errors.Is(err, ErrUnsupportedProfile) {
			continue
		}
		must(t, err)
		tested++
		checkLaw(t, r, req, profile, table)
		for _, name := range names {
			_ = table.SetVerdict(name, Verdict(r.IntN(4)), NoException)
		}
		checkNarrower(t, r, req, profile, table, nil)
		if t.Failed() {
			raw, _ := json.Marshal(req)
			t.Fatalf("request %s", raw)
		}
	}
	if tested < rounds*9/10 {
		t.Errorf("only %d of %d profiles were supported", tested, rounds)
	}
}

// checkLaw also checks the other side: what the verdicts allow is not lost.
func checkLaw(t *testing.T, r *rand.Rand, req Request, profile *specs.LinuxSeccomp, table *Table) {
	t.Helper()
	checkNarrower(t, r, req, profile, table, func(name string, args *[maxArgs]uint64, got result) {
		v, explicit := req.Verdicts[name]
		if !explicit {
			v = req.Fallback
		}
		if name == "clone" || name == "clone3" || v < Watch {
			return // unshare has a say
		}
		if mixed(req.Requested, name) {
			return // which of several rules wins is libseccomp's affair; denying is right
		}
		if action := weigh(req.Requested, name, args); permissive(action) && got != passed {
			if _, known := Number(name); known {
				t.Errorf("%s%x is requested and %s, but does not pass", name, args, v)
			}
		}
	})
}

func checkNarrower(t *testing.T, r *rand.Rand, req Request, profile *specs.LinuxSeccomp, table *Table, also func(string, *[maxArgs]uint64, result)) {
	t.Helper()
	samples := sampleArgs(req.Requested, r)
	names := append(mentioned(req.Requested), "mount", "clone", "clone3", "bpf", "getpid")
	for _, name := range names {
		for range 12 {
			args := samples[r.IntN(len(samples))]
			want, got := final(req.Requested, nil, name, &args), final(profile, table, name, &args)
			if got > want {
				t.Errorf("%s%x: requested %d, got %d", name, args, want, got)
			}
			if also != nil {
				also(name, &args, got)
			}
		}
	}
}

// mixed reports whether rules that allow and rules that deny name the same call.
func mixed(profile *specs.LinuxSeccomp, name string) bool {
	var allows, denies bool
	for _, s := range profile.Syscalls {
		if slices.Contains(s.Names, name) {
			allows, denies = allows || permissive(s.Action), denies || !permissive(s.Action)
		}
	}
	return allows && denies
}

func mentioned(profile *specs.LinuxSeccomp) []string {
	var names []string
	for _, s := range profile.Syscalls {
		names = append(names, s.Names...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestNoForbiddenNotify(t *testing.T) {
	for _, requested := range []*specs.LinuxSeccomp{DefaultProfile(nil), {DefaultAction: specs.ActAllow}} {
		profile, _ := compiled(t, Request{Requested: requested, Fallback: Watch, ForeignArch: true})
		if profile.DefaultAction != specs.ActErrno {
			t.Errorf("default action %s", profile.DefaultAction)
		}
		watchedExec := false
		for _, s := range profile.Syscalls {
			if s.Action != specs.ActNotify {
				continue
			}
			for _, name := range s.Names {
				if indispensable(name) {
					t.Errorf("%s is watched: runc would hang", name)
				}
				watchedExec = watchedExec || name == "execve"
			}
		}
		if !watchedExec {
			t.Error("execve is not watched: runc's phase would never end")
		}
	}
}

func FuzzNegate(f *testing.F) {
	f.Add(uint8(6), uint64(0x7e020000), uint64(0), uint64(0x10000000))
	f.Add(uint8(0), uint64(38), uint64(0), uint64(38))
	operators := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	f.Fuzz(func(t *testing.T, op uint8, value, value2, arg uint64) {
		rule := specs.LinuxSeccompArg{Op: operators[int(op)%len(operators)], Value: value, ValueTwo: value2}
		args := [maxArgs]uint64{arg}
		holds := len(matching([]specs.LinuxSeccompArg{rule}, &args)) > 0
		opposite := false
		for _, n := range negate(rule) {
			opposite = opposite || len(matching([]specs.LinuxSeccompArg{n}, &args)) > 0
		}
		if holds == opposite {
			t.Errorf("%+v and its negation %+v agree on %#x", rule, negate(rule), arg)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	req := Request{Requested: DefaultProfile(nil), Verdicts: hotNative(), Fallback: Watch, ListenerPath: "/run/n.sock"}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Compile(req); err != nil {
			b.Fatal(err)
		}
	}
}
