package main

import (
	"context"
	"fmt"
	"time"
)

// idleTime is how long the daemon is watched while containers do nothing.
const idleTime = 30 * time.Second

// measureDaemon weighs a fresh daemon and one that knows many workloads, and asks the latter, alone and while
// containers start.
func measureDaemon(ctx context.Context, b *bench) ([]figure, error) {
	fresh, err := freshDaemon(ctx)
	if err != nil {
		return nil, err
	}
	figures := []figure{fresh}
	n, err := openNode(ctx, func(n *node) error { return fill(ctx, n) }, "busybox")
	if err != nil {
		return figures, err
	}
	more, err := n.experienced(ctx, b)
	if closed := n.close(); err == nil {
		err = closed
	}
	return append(figures, more...), err
}

func freshDaemon(ctx context.Context) (f figure, err error) {
	n, err := openNode(ctx, nil, "busybox")
	if err != nil {
		return f, err
	}
	defer func() {
		if closed := n.close(); err == nil {
			err = closed
		}
	}()
	for range 3 { // not quite unused
		if _, err := n.live(ctx, forefend, n.id(forefend)); err != nil {
			return f, err
		}
	}
	rss, err := n.daemonRSS()
	f = alone("daemon RSS, fresh node (MiB)", fmt.Sprintf("%.0f", rss), []float64{rss})
	return f.hold(target{must: 60, aim: 60, unit: " MiB"}, rss), err
}

func (n *node) daemonRSS() (float64, error) {
	pid, err := n.pid("forefend", "daemon")
	if err != nil {
		return 0, err
	}
	kib, err := memory(pid, "status", "VmRSS")
	return kib / 1024, err
}

// experienced makes the figures of a daemon with a long history.
func (n *node) experienced(ctx context.Context, b *bench) (figures []figure, err error) {
	rss, err := n.daemonRSS()
	if err != nil {
		return nil, err
	}
	loaded := alone("daemon RSS, 10,000 workloads (MiB)", fmt.Sprintf("%.0f", rss), []float64{rss})
	figures = append(figures, loaded.hold(target{must: 150, aim: 80, unit: " MiB"}, rss))

	a, err := n.newAsker(ctx)
	if err != nil {
		return figures, err
	}
	defer a.client.Close()
	if err := a.warm(ctx); err != nil {
		return figures, err
	}
	idle, err := a.series(ctx, 10*b.rounds)
	if err != nil {
		return figures, err
	}
	figures = append(figures, admitFigures("alone", idle, a.late)...)
	a.late = 0
	crowded, ids, err := n.crowd(ctx, a, b.containers)
	if err != nil {
		return figures, err
	}
	figures = append(figures, admitFigures(fmt.Sprintf("%d starting", b.containers), crowded, a.late)...)
	inside, late, err := n.decided(ids)
	if err != nil {
		return figures, err
	}
	figures = append(figures, admitFigures(fmt.Sprintf("the %d, in daemon", b.containers), inside, late)...)

	idleFigures, err := n.idle(ctx, len(ids))
	if err != nil {
		return append(figures, idleFigures...), err
	}
	for _, id := range ids {
		if err := n.remove(ctx, id); err != nil {
			return figures, err
		}
	}
	return append(figures, idleFigures...), nil
}

func admitFigures(state string, took []float64, late int) []figure {
	var figures []figure
	for _, q := range []struct {
		name  string
		share float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		at := quantile(took, q.share)
		f := alone("Admit, "+state+", "+q.name+" (ms)", fmt.Sprintf("%.2f", at), nil)
		f.N = len(took)
		if q.name == "p99" {
			f = f.hold(target{must: 5, aim: 1, unit: " ms"}, at)
			f.Samples = map[string][]float64{"forefend": took}
			f.Change = fmt.Sprintf("%d late of %d", late, len(took))
		}
		figures = append(figures, f)
	}
	return figures
}

// idle watches the daemon while containers sleep.
func (n *node) idle(ctx context.Context, containers int) ([]figure, error) {
	if err := wait(ctx, 5*time.Second); err != nil { // until what starting them caused is done
		return nil, err
	}
	before, err := n.cpu.cpu(daemonGroup)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := wait(ctx, idleTime); err != nil {
		return nil, err
	}
	after, err := n.cpu.cpu(daemonGroup)
	if err != nil {
		return nil, err
	}
	share := (after - before) / time.Since(begin).Seconds() * 100
	rss, err := n.daemonRSS()
	if err != nil {
		return nil, err
	}
	cpu := alone(fmt.Sprintf("daemon CPU, %d idle (%% of a core)", containers), fmt.Sprintf("%.2f", share), []float64{share})
	weight := alone(fmt.Sprintf("daemon RSS, %d idle (MiB)", containers), fmt.Sprintf("%.0f", rss), []float64{rss})
	return []figure{
		cpu.hold(target{must: 1, aim: 0.3, unit: " %"}, share), weight.hold(target{must: 150, aim: 80, unit: " MiB"}, rss),
	}, nil
}
