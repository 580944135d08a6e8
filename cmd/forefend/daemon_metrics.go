package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/forefend/meter"
	"forefend.dev/forefend/runtime/store"
)

// scrapeTimeout bounds what a scrape asks of the store.
const scrapeTimeout = 2 * time.Second

// listenMetrics opens the place where figures are served. Without it the daemon works all the same.
func (d *daemon) listenMetrics(ctx context.Context) {
	network, address := d.cfg.MetricsAddress()
	if network == "" {
		return
	}
	l, err := meter.Listen(network, address)
	if err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("no metrics: %v", err))
		log.G(ctx).WithError(err).Warn("forefend daemon: no metrics")
		return
	}
	d.scrapes = l
}

// standing is what holds now, for a scrape.
func (d *daemon) standing() meter.Standing {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	stats := d.book.Stats()
	s := meter.Standing{
		Containers: d.service.Standing(), Workloads: stats.Workloads, Runs: stats.Runs,
		StoreBytes: make(map[string]uint64), StoreRecords: make(map[string]uint64),
		SetAside: len(d.store.SetAside()), Spooled: spooled(d.cfg.SpoolDir()), Queue: len(d.journal.queue), Degraded: len(d.degraded),
	}
	for _, stream := range []store.Stream{store.Runs, store.Checkpoints, store.Events, store.Decisions, store.Rules} {
		state, err := d.store.State(ctx, stream)
		if err != nil {
			continue // a figure that is missing says so itself
		}
		name := strings.ToLower(string(stream))
		s.StoreBytes[name], s.StoreRecords[name] = state.Bytes, state.Records
	}
	return s
}

// maxSpoolSeen bounds the work of counting: that many say enough.
const maxSpoolSeen = 10000

// spooled counts the observations that wait in the spool, up to maxSpoolSeen.
func spooled(dir string) (n int) {
	f, err := os.Open(dir)
	if err != nil {
		return 0 // shims make it when they need it
	}
	defer f.Close()
	names, err := f.Readdirnames(maxSpoolSeen)
	if err != nil && err != io.EOF {
		return 0
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, ".") {
			n++
		}
	}
	return n
}
