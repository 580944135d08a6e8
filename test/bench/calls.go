package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/test/e2e/harness"
)

// measureCalls times a call that runs at full speed and one that the shim answers, in containers with containerd's
// default filter (Docker's) requested: on idle cores and beside as many spinning threads as there are cores.
func measureCalls(ctx context.Context, b *bench) (figures []figure, err error) {
	n, err := openNode(ctx, nil, "static")
	if err != nil {
		return nil, err
	}
	defer func() {
		if closed := n.close(); err == nil {
			err = closed
		}
	}()
	last := ""
	for range warmUp {
		last = n.id(forefend)
		if _, err := n.timeCalls(ctx, forefend, last); err != nil {
			return nil, err
		}
	}
	if err := n.sealed(ctx, last); err != nil {
		return nil, err
	}
	if err := n.tiers(ctx, last); err != nil {
		return nil, err
	}
	idle, err := n.callSeries(ctx, b.rounds)
	if err != nil {
		return nil, err
	}
	figures = callFigures("idle", idle)
	stop, err := keepBusy(ctx)
	if err != nil {
		return figures, err
	}
	defer stop()
	busy, err := n.callSeries(ctx, b.rounds)
	if err != nil {
		return figures, err
	}
	return append(figures, callFigures("busy", busy)...), nil
}

// timeCalls runs this program inside a container.
func (n *node) timeCalls(ctx context.Context, kind runtimeKind, id string) (t timings, err error) {
	self, err := os.Executable()
	if err != nil {
		return t, err
	}
	_, text, err := n.ctr(ctx, "run", "--rm", "--runtime", kind.name, "--seccomp",
		"--mount", "type=bind,src="+self+",dst=/bench,options=rbind:ro", harness.Image("static"), id, "/bench", insideCommand)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return t, fmt.Errorf("%s printed %q: %w", id, text, err)
	}
	if t.Errno != 0 {
		return t, fmt.Errorf("%s: %s failed with errno %d", id, watchedName, t.Errno)
	}
	return t, nil
}

// tiers checks that the two calls are where the figures say they are.
func (n *node) tiers(ctx context.Context, id string) error {
	d, err := n.explain(ctx, id)
	if err != nil {
		return err
	}
	verdicts := d.Effective.Members(policy.KeySyscalls)
	if verdicts[nativeName] != policy.SyscallNative || verdicts[watchedName] != policy.SyscallWatch {
		return fmt.Errorf("%s is %s and %s is %s", nativeName, policy.KeySyscalls.Format(verdicts[nativeName]),
			watchedName, policy.KeySyscalls.Format(verdicts[watchedName]))
	}
	return nil
}

// callSeries takes turns between the runtimes, a container each time.
func (n *node) callSeries(ctx context.Context, rounds int) (map[runtimeKind][]timings, error) {
	series := make(map[runtimeKind][]timings)
	for round := range rounds {
		for _, kind := range inTurn(round) {
			t, err := n.timeCalls(ctx, kind, n.id(kind))
			if err != nil {
				return nil, fmt.Errorf("round %d: %w", round+1, err)
			}
			series[kind] = append(series[kind], t)
		}
	}
	return series, nil
}

// callFigures are the rows for one state of the cores.
func callFigures(state string, series map[runtimeKind][]timings) []figure {
	medians := func(kind runtimeKind) (out []float64) {
		for _, t := range series[kind] {
			out = append(out, median(t.Native))
		}
		return out
	}
	pooled := func(kind runtimeKind) (out []float64) {
		for _, t := range series[kind] {
			out = append(out, t.Watched...)
		}
		return out
	}
	native := paired("native call, "+state+" cores (ns)", "%.1f", "%+.1f", medians(stock), medians(forefend), added)
	native = native.hold(target{must: 2, aim: 0, unit: " ns"}, native.Value)
	s, f := pooled(stock), pooled(forefend)
	figures := []figure{native}
	for _, q := range []struct {
		name  string
		share float64
		must  float64
		aim   float64
	}{{"p50", 0.5, 10, 5.5}, {"p99", 0.99, 200, 50}} {
		at := quantile(f, q.share) / 1000
		row := figure{
			Name: "watched call, " + state + ", " + q.name + " (us)", N: len(f),
			Stock: fmt.Sprintf("%.2f", quantile(s, q.share)/1000), Forefend: fmt.Sprintf("%.2f", at),
		}
		figures = append(figures, row.hold(target{must: q.must, aim: q.aim, unit: " us"}, at))
	}
	figures[1].Samples = map[string][]float64{"stock": s, "forefend": f}
	return figures
}

// keepBusy spins on every core, at normal priority, until stop is called.
func keepBusy(ctx context.Context) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, insideCommand, "spin", strconv.Itoa(runtime.NumCPU()))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, wait(ctx, 200*time.Millisecond)
}
