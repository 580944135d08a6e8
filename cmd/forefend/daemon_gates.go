package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/netns/gate"
	"forefend.dev/forefend/predictor/threat"
	"forefend.dev/forefend/runtime/cgroup"
)

const (
	// feedBelief is how much a listed address has to be believed for the kernel to look for it: a plain list is after 38 days, with
	// the half-life that is the default. Less is evidence of little and an occasion for false alarms.
	feedBelief = 0.25
	sweepEvery = time.Minute // what killed shims left
	fadeEvery  = time.Hour   // belief fades while no file changes
)

// nodeGates is the daemon's part in the gates of the node's containers: it keeps the programs loaded, so that a container's start
// does not pay for that, and the threat feeds up to date. Containers' gates are their shims' and need no daemon.
type nodeGates struct {
	gates *gate.Gates // nil: this node has none
	feeds *threat.Feeds
	mu    sync.Mutex // one load at a time
}

// openGates opens the node's gates and loads the threat feeds into the kernel. What is missing is degraded, not fatal.
func (d *daemon) openGates(ctx context.Context) {
	d.gates = &nodeGates{feeds: d.threats.Feeds}
	gates, err := gate.Open(d.cfg.GatesDir())
	if err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("networks of running containers cannot be changed, threat feeds are not enforced: %v", err))
		log.G(ctx).WithError(err).Warn("forefend daemon: no gates")
		return
	}
	d.gates.gates = gates
	d.gates.load(ctx)
}

// load puts the feeds as they are believed now into the kernel.
func (n *nodeGates) load(ctx context.Context) {
	if n.gates == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	start := time.Now()
	count, err := n.gates.Feeds().Load(n.feeds.Set().Prefixes(start, feedBelief))
	if err != nil {
		log.G(ctx).WithError(err).Warn("forefend daemon: threat feeds not in force in the kernel")
		return
	}
	if count > 0 {
		log.G(ctx).WithField("prefixes", count).WithField("took", time.Since(start).Round(time.Millisecond).String()).
			Info("forefend daemon: threat feeds in force in the kernel")
	}
}

// run sweeps what killed shims left, and lets belief fade, until ctx ends.
func (n *nodeGates) run(ctx context.Context) {
	if n.gates == nil {
		return
	}
	sweep, fade := time.NewTicker(sweepEvery), time.NewTicker(fadeEvery)
	defer sweep.Stop()
	defer fade.Stop()
	for {
		if swept, err := n.gates.Sweep(cgroup.UnifiedRoot()); err != nil || swept > 0 {
			log.G(ctx).WithError(err).WithField("entries", swept).Info("forefend daemon: swept gates of containers that are gone")
		}
		select {
		case <-ctx.Done():
			if err := n.gates.Close(); err != nil {
				log.G(ctx).WithError(err).Warn("forefend daemon: gates not closed")
			}
			return
		case <-sweep.C:
		case <-fade.C:
			n.load(ctx)
		}
	}
}
