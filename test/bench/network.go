package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"forefend.dev/forefend/netns/gate"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// switches is how often a network is switched in each direction.
const switches = 200

// measureNetwork times changes of a running container's network, as whoever asks the daemon for them sees it, and of threat feeds.
// A change is in force for the next packet when it is acknowledged.
func measureNetwork(ctx context.Context, _ *bench) (figures []figure, err error) {
	n, err := openNode(ctx, nil, "busybox")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	id := n.id(forefend)
	if err := n.start(ctx, forefend, "busybox", id, nil, sleeper...); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.remove(ctx, id)) }()
	client, err := api.Dial(ctx, filepath.Join(n.Dir, "run", "forefend.sock"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	change := func(key, value string) (ms, lever float64, err error) {
		req := api.AdjustRequest{
			Version: api.Version, ID: workload.ID{Namespace: n.Namespace, Container: id}, Set: map[string]string{key: value}, Author: policy.Operator, Source: "bench", Brief: true,
		}
		start := time.Now()
		resp, err := client.Adjust(ctx, req)
		ms = milliseconds(time.Since(start))
		if err != nil {
			return 0, 0, err
		}
		for _, r := range resp.Results {
			if r.Lever == "network" && r.Status == api.ResultApplied {
				return ms, milliseconds(r.Took), nil
			}
		}
		return 0, 0, fmt.Errorf("%s = %s came to %+v", key, value, resp.Results)
	}
	var off, on, gates, egress []float64
	before, err := n.cpu.cpu("")
	if err != nil {
		return nil, err
	}
	for i := range switches {
		for _, step := range []struct {
			key, value string
			to         *[]float64
		}{{"network", "off", &off}, {"network", "on", &on}, {"egress.block", fmt.Sprintf("192.0.2.%d", i%250), &egress}} {
			took, lever, err := change(step.key, step.value)
			if err != nil {
				return nil, err
			}
			*step.to = append(*step.to, took)
			gates = append(gates, lever)
		}
	}
	after, err := n.cpu.cpu("")
	if err != nil {
		return nil, err
	}
	cost := 1000 * (after - before) / float64(len(gates))
	row := func(name string, samples []float64, t target) figure {
		f := alone(name, fmt.Sprintf("p50 %.2f, p99 %.2f", median(samples), quantile(samples, 0.99)), samples)
		return f.hold(t, quantile(samples, 0.99))
	}
	figures = append(figures,
		row("network off, request to acknowledgement (ms)", off, target{must: 10, aim: 10, unit: " ms p99"}),
		row("network on, likewise (ms)", on, target{must: 10, aim: 10, unit: " ms p99"}),
		row("an address blocked, likewise (ms)", egress, target{must: 10, aim: 10, unit: " ms p99"}),
		row("the gate's part of these (ms)", gates, target{must: 5, aim: 1, unit: " ms p99"}),
		alone("CPU time of daemon and shim for a change (ms)", fmt.Sprintf("%.2f", cost), []float64{cost}),
	)
	more, err := measureFeeds()
	return append(figures, more...), err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// listed is how many prefixes the feeds have.
const listed = 100_000

// measureFeeds times the node's set of listed addresses.
func measureFeeds() (_ []figure, err error) {
	dir, err := os.MkdirTemp("", "forefend-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	gates, err := gate.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gates.Close()) }()
	var load, one []float64
	for range 10 {
		start := time.Now()
		if _, err := gates.Feeds().Load(prefixes); err != nil {
			return nil, err
		}
		load = append(load, time.Since(start).Seconds())
	}
	extra := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	for range switches {
		start := time.Now()
		if err := gates.Feeds().Change(extra, nil); err != nil {
			return nil, err
		}
		one = append(one, milliseconds(time.Since(start)))
		if err := gates.Feeds().Change(nil, extra); err != nil {
			return nil, err
		}
	}
	memory, err := gates.Feeds().Memory()
	if err != nil {
		return nil, err
	}
	f := alone("100,000 listed prefixes into the kernel (s)", fmt.Sprintf("p50 %.2f, p99 %.2f", median(load), quantile(load, 0.99)), load)
	g := alone("one prefix more (ms)", fmt.Sprintf("p50 %.2f, p99 %.2f", median(one), quantile(one, 0.99)), one)
	h := alone("memory of the set, for all containers (MiB)", fmt.Sprintf("%.1f", memory/(1<<20)), []float64{memory / (1 << 20)})
	return []figure{
		f.hold(target{must: 3, aim: 1, unit: " s p99"}, quantile(load, 0.99)),
		g.hold(target{must: 5, aim: 1, unit: " ms p99"}, quantile(one, 0.99)), h,
	}, nil
}

// prefixes yields what is listed.
func prefixes(yield func(netip.Prefix) bool) {
	for i := range listed {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0}), 24)
		if !yield(p) {
			return
		}
	}
}
