package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/agent/host"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/record"
)

// agentIdle is how long an agent is watched at rest.
const agentIdle = 20 * time.Second

// agentSettles is how long it takes until an agent looks at sockets as seldom as it ever does.
const agentSettles = 20 * time.Second

// measureAgent injects agents as a shim does, without containers around them: what an agent's life costs is the CPU of
// who injects it and of the agent, cgroups included.
func measureAgent(ctx context.Context, b *bench) (figures []figure, err error) {
	box, start, err := namespaces()
	if err != nil {
		return nil, err
	}
	defer func() { _ = box.Process.Kill(); _ = box.Wait() }() // it sleeps
	dir, err := os.MkdirTemp("", "ffbench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary, err := filepath.Abs(filepath.Join("bin", "forefend-agent"))
	if err != nil {
		return nil, err
	}
	h := host.New(host.Config{
		Binary: binary, Empty: filepath.Join(dir, "empty"),
		Start: func(cmd *exec.Cmd) (func() error, error) { return cmd.Wait, cmd.Start() },
		Join:  cgroup.Join, Leave: leaveGroup,
	})
	into := host.Target{Name: "bench", PID: box.Process.Pid, PIDStart: start, Cgroup: fmt.Sprintf("forefend/agent/bench-%d", os.Getpid())}
	var first, ready, spent, outage []float64
	for range b.rounds {
		before := cpuOfAll()
		a, err := h.Inject(ctx, into)
		if err != nil {
			return figures, err
		}
		s := a.State()
		first, ready = append(first, milliseconds(s.First)), append(ready, milliseconds(s.Ready))
		a.Close()
		spent = append(spent, milliseconds(cpuOfAll()-before))
	}
	replaced := make(chan host.Change, 16)
	into.Changed = func(c host.Change) { replaced <- c }
	a, err := h.Inject(ctx, into)
	if err != nil {
		return figures, err
	}
	defer a.Close()
	for range min(b.rounds, 15) { // so many are replaced at once
		pid, _ := a.Process()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return figures, err
		}
		for c := range replaced {
			if c.PID != 0 && c.Restart > 0 {
				outage = append(outage, milliseconds(c.Outage))
				break
			}
		}
	}
	pid, _ := a.Process()
	if err := wait(ctx, agentSettles); err != nil {
		return figures, err
	}
	health, err := a.Health(ctx)
	if err != nil {
		return figures, err
	}
	if err := wait(ctx, agentIdle); err != nil {
		return figures, err
	}
	later, err := a.Health(ctx)
	if err != nil {
		return figures, err
	}
	var memoryOf [3]float64
	for i, field := range []string{"Rss", "Private_Dirty", "Anonymous"} {
		kib, err := memory(pid, "smaps_rollup", field)
		if err != nil {
			return figures, err
		}
		memoryOf[i] = kib / 1024
	}
	idle := float64(later.CPU-health.CPU) / float64(agentIdle) * 100
	text := func(samples []float64) string {
		return fmt.Sprintf("%.1f, p99 %.1f", median(samples), quantile(samples, 0.99))
	}
	return append(figures,
		alone("agent: first byte (ms)", text(first), first).hold(target5("ms"), median(first)),
		alone("agent: handshake done (ms)", text(ready), ready),
		alone("agent: CPU per life, where it is early (ms)", text(spent), spent).hold(target5("ms"), median(spent)),
		alone("agent: replaced after kill -9 (ms)", text(outage), outage).hold(target{must: 100, aim: 100, unit: " ms"}, median(outage)),
		alone("agent: private memory at rest (MiB)", fmt.Sprintf("%.2f (RSS %.1f)", memoryOf[1], memoryOf[0]), memoryOf[1:2]).
			hold(target{must: 2, aim: 2, unit: " MiB"}, memoryOf[1]),
		alone("agent: CPU at rest (% of a core)", fmt.Sprintf("%.4f", idle), []float64{idle}),
	), nil
}

func target5(unit string) target { return target{must: 5, aim: 5, unit: " " + unit} }

// namespaces starts a process in namespaces such as a container's.
func namespaces() (*exec.Cmd, uint64, error) {
	box := exec.Command("sleep", "infinity")
	box.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	runtime.LockOSThread() // the signal comes when the thread ends: main's does so with the process
	if err := box.Start(); err != nil {
		return nil, 0, err
	}
	start, err := record.Start(box.Process.Pid)
	return box, start, err
}

// leaveGroup removes a cgroup that its last process is just leaving.
func leaveGroup(name string) error {
	group, err := cgroup.Named(name)
	for try := 0; err == nil && try < 500; try++ {
		if err := group.Remove(); err == nil {
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return err
}

// cpuOfAll is the CPU time of this process and of its children that have ended.
func cpuOfAll() time.Duration {
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return total
}
