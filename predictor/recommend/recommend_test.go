package recommend

import (
	"math"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

func names(list ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(list, s) }
}

var node = Input{
	Cores: 8, NodeMemory: 16 << 30, Enforce: true, AllowReadonlyRoot: true,
	Hot: names("read"), Sensitive: names("execve"), Dangerous: names("ptrace"),
}

// known is a workload with five like runs.
func known() workload.Prediction {
	bound := func(v float64) workload.Bound {
		return workload.Bound{Value: v, Coverage: 0.99, Basis: "5 runs image+command"}
	}
	return workload.Prediction{
		Runs: 5, Level: workload.LevelDigestCommand.String(), Memory: bound(100<<20 + 1), CPU: bound(2), PIDs: bound(10),
		Unseen: 1. / 6, Sealed: true, RootfsWrites: workload.No,
		Seen: map[string]int{"openat": 5, "futex": 1, "read": 1, "getrandom": 1, "execve": 5, "ptrace": 3, "never": 0},
		Hot:  []string{"futex"},
	}
}

func claims(p workload.Prediction, in Input) map[policy.Key]policy.Value {
	m := make(map[policy.Key]policy.Value)
	for _, c := range Claims(p, in) {
		m[c.Key] = c.Value
	}
	return m
}

func TestKnownWorkload(t *testing.T) {
	got := claims(known(), node)
	want := map[policy.Key]policy.Value{
		"memory.soft": 101 << 20, "pids": 80, "cpus": 2500, "sealed": policy.Tight, "readonly_root": policy.Tight,
		"syscalls/openat": policy.SyscallNative, "syscalls/futex": policy.SyscallNative, "syscalls/read": policy.SyscallNative,
		"syscalls/execve": policy.SyscallWatch, "syscalls/ptrace": policy.SyscallWatch,
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s = %d, want %d", k, got[k], v)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("more claims: %v", got)
	}
}

// A call that was never made while serving stays where it can be switched off, however often it was seen.
func TestStartsStaySwitchable(t *testing.T) {
	p := known()
	p.Phases = &workload.Phases{Runs: 1, Start: []string{"futex", "openat"}}
	got := claims(p, node)
	if got["syscalls/openat"] != policy.SyscallWatch || got["syscalls/futex"] != policy.SyscallNative {
		t.Errorf("%v: futex is called so often that watching it would cost", got)
	}
}

func TestEveryClaimSaysWhoAndWhy(t *testing.T) {
	for _, c := range Claims(known(), node) {
		if c.Author != policy.Prediction || c.Source != "history image+command, 5 runs" || c.Reason == "" || !c.Key.Known() {
			t.Errorf("%+v", c)
		}
		if strings.Contains(c.Reason, "%!") {
			t.Errorf("%s: reason %q", c.Key, c.Reason)
		}
	}
}

func TestNothingIsClaimed(t *testing.T) {
	for name, change := range map[string]func(*workload.Prediction, *Input){
		"without runs":                     func(p *workload.Prediction, _ *Input) { p.Runs = 0 },
		"from the runs of a user":          func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelUser.String() },
		"from the runs of the node":        func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelNode.String() },
		"from a level this does not know":  func(p *workload.Prediction, _ *Input) { p.Level = "galaxy" },
		"from a prediction of nothing yet": func(p *workload.Prediction, _ *Input) { *p = workload.Prediction{Runs: 1, Level: p.Level} },
	} {
		p, in := known(), node
		change(&p, &in)
		if got := Claims(p, in); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOneClaimFalls(t *testing.T) {
	for _, c := range []struct {
		name   string
		key    policy.Key
		change func(*workload.Prediction, *Input)
	}{
		{"cpus unless enforced", "cpus", func(_ *workload.Prediction, in *Input) { in.Enforce = false }},
		{"cpus with four runs", "cpus", func(p *workload.Prediction, _ *Input) { p.Runs = 4 }},
		{"cpus of all processors", "cpus", func(_ *workload.Prediction, in *Input) { in.Cores = 2.5 }},
		{"cpus not a number", "cpus", func(p *workload.Prediction, _ *Input) { p.CPU.Value = math.NaN() }},
		{"memory beyond the node", "memory.soft", func(_ *workload.Prediction, in *Input) { in.NodeMemory = 1 << 20 }},
		{"memory where the kernel would throttle", "memory.soft", func(_ *workload.Prediction, in *Input) { in.Unified = true }},
		{"memory of the same binary elsewhere", "memory.soft", func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelExecutable.String() }},
		{"pids of the same binary elsewhere", "pids", func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelExecutable.String() }},
		{"cpus of the same binary elsewhere", "cpus", func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelExecutable.String() }},
		{"memory beyond sense", "memory.soft", func(p *workload.Prediction, in *Input) { p.Memory.Value, in.NodeMemory = math.Inf(1), 0 }},
		{"pids with two runs", "pids", func(p *workload.Prediction, _ *Input) { p.Runs = 2 }},
		{"pids beyond sense", "pids", func(p *workload.Prediction, _ *Input) { p.PIDs.Value = 1e300 }},
		{"seal", "sealed", func(p *workload.Prediction, _ *Input) { p.Sealed = false }},
		{"read-only root where writes were seen", "readonly_root", func(p *workload.Prediction, _ *Input) { p.RootfsWrites = workload.Yes }},
		{"read-only root where nobody looked", "readonly_root", func(p *workload.Prediction, _ *Input) { p.RootfsWrites = workload.Unknown }},
		{"read-only root the site does not want", "readonly_root", func(_ *workload.Prediction, in *Input) { in.AllowReadonlyRoot = false }},
		{"a dangerous call of the same binary elsewhere", "syscalls/ptrace", func(p *workload.Prediction, _ *Input) { p.Level = workload.LevelExecutable.String() }},
		{"a call seen once", "syscalls/openat", func(p *workload.Prediction, _ *Input) { p.Seen["openat"] = 1 }},
	} {
		p, in := known(), node
		if _, ok := claims(p, in)[c.key]; !ok {
			t.Fatalf("no claim for %s to begin with", c.key)
		}
		c.change(&p, &in)
		if v, ok := claims(p, in)[c.key]; ok {
			t.Errorf("%s: %s = %d is claimed", c.name, c.key, v)
		}
	}
}

func TestSmallBoundsKeepRoom(t *testing.T) {
	p := known()
	p.PIDs.Value, p.CPU.Value = 1, 0.01
	got := claims(p, node)
	if got["pids"] != 80 { // 1+64 rounded up to a multiple of 16
		t.Errorf("pids = %d", got["pids"])
	}
	if got["cpus"] != 260 {
		t.Errorf("cpus = %d", got["cpus"])
	}
	p.PIDs.Value = 100
	if got := claims(p, node)["pids"]; got != 208 {
		t.Errorf("pids = %d", got)
	}
}

// Nothing is denied here, and nothing is looser than watched that is not harmless.
func TestVerdicts(t *testing.T) {
	p := known()
	p.Runs = 1
	for _, c := range Claims(p, Input{}) {
		if family, _ := c.Key.Family(); family == policy.KeySyscalls && c.Value < policy.SyscallWatch {
			t.Errorf("%s is denied", c.Key)
		}
		if c.Key == policy.KeyMemory {
			t.Error("a hard memory limit")
		}
		if strings.Contains(c.Source, "1 runs") {
			t.Errorf("source %q", c.Source)
		}
	}
}
