package main

import (
	"context"
	"fmt"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// warmUp is how many runs Forefend sees of a workload before it is measured: it is sealed from the fifth on.
const warmUp = 6

// afterwards is how long a node may still do things once the last shim is gone, for example write its journal. It is
// part of what a container costs.
const afterwards = 30 * time.Millisecond

// life is what one container cost from `ctr run --rm` until nothing of it is left.
type life struct {
	wall float64 // of ctr, seconds
	cpu  float64 // of containerd, shim, runc and the container, for Forefend of its daemon too; seconds
	of   float64 // the daemon's part of cpu
}

// live runs a container of busybox's true.
func (n *node) live(ctx context.Context, kind runtimeKind, id string, flags ...string) (life, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	before, daemonBefore, err := n.spent()
	if err != nil {
		return life{}, err
	}
	args := append([]string{"run", "--rm", "--runtime", kind.name}, flags...)
	begin := time.Now()
	if _, _, err := n.ctr(ctx, append(args, harness.Image("busybox"), id, "true")...); err != nil {
		return life{}, err
	}
	l := life{wall: time.Since(begin).Seconds()}
	if err := n.cpu.quiet(ctx); err != nil {
		return l, err
	}
	if err := wait(ctx, afterwards); err != nil {
		return l, err
	}
	after, daemonAfter, err := n.spent()
	l.of = daemonAfter - daemonBefore
	l.cpu = after - before
	if kind == stock {
		l.cpu -= l.of // the daemon is there, but it is not stock's
	}
	return l, err
}

// spent is the CPU time of the whole node so far, and the daemon's part of it.
func (n *node) spent() (all, daemon float64, err error) {
	if all, err = n.cpu.cpu(""); err != nil {
		return 0, 0, err
	}
	daemon, err = n.cpu.cpu(daemonGroup)
	return all, daemon, err
}

func measureLife(ctx context.Context, b *bench) ([]figure, error) {
	n, err := openNode(ctx, nil, "busybox")
	if err != nil {
		return nil, err
	}
	figures, err := n.lives(ctx, b)
	if closed := n.close(); err == nil {
		err = closed
	}
	return figures, err
}

func (n *node) lives(ctx context.Context, b *bench) ([]figure, error) {
	var figures []figure
	for _, variant := range []struct {
		what  string
		flags []string
	}{{"", nil}, {", --seccomp", []string{"--seccomp"}}} {
		series, err := n.lifeSeries(ctx, b.rounds, variant.flags)
		if err != nil {
			return figures, err
		}
		s, f := series[stock], series[forefend]
		cpu := paired("CPU per life"+variant.what+" (ms)", "%.1f", "%+.1f", ms(s, life.spent), ms(f, life.spent), added).
			hold(target{must: 6, aim: 3, unit: " ms"}, median(pairwise(ms(s, life.spent), ms(f, life.spent), added)))
		cpu.Samples["forefend daemon"] = ms(f, life.daemon)
		wall := paired("ctr run --rm"+variant.what+" (ms)", "%.0f", "x%.2f", ms(s, life.took), ms(f, life.took), ratio)
		figures = append(figures, cpu, wall.hold(target{must: 1.1, aim: 1}, wall.Value))
	}
	return figures, nil
}

// lifeSeries takes turns between the two runtimes, once Forefend knows the workload.
func (n *node) lifeSeries(ctx context.Context, rounds int, flags []string) (map[runtimeKind][]life, error) {
	for range warmUp {
		for _, kind := range inTurn(0) {
			if _, err := n.live(ctx, kind, n.id(kind), flags...); err != nil {
				return nil, err
			}
		}
	}
	series := make(map[runtimeKind][]life)
	last := ""
	for round := range rounds {
		for _, kind := range inTurn(round) {
			id := n.id(kind)
			l, err := n.live(ctx, kind, id, flags...)
			if err != nil {
				return nil, fmt.Errorf("round %d: %w", round+1, err)
			}
			series[kind] = append(series[kind], l)
			if kind == forefend {
				last = id
			}
		}
	}
	return series, n.sealed(ctx, last)
}

func (l life) spent() float64  { return l.cpu }
func (l life) took() float64   { return l.wall }
func (l life) daemon() float64 { return l.of }

// ms picks one thing of all lives, in milliseconds.
func ms(lives []life, pick func(life) float64) []float64 {
	out := make([]float64, len(lives))
	for i, l := range lives {
		out[i] = pick(l) * 1000
	}
	return out
}
