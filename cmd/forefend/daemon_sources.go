package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/forefend/foresight"
	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/cmd/internal/config/techniques"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/exploited"
	"forefend.dev/forefend/predictor/monitor"
	"forefend.dev/forefend/predictor/nodeload"
	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/predictor/threat"
	"forefend.dev/forefend/predictor/threat/fetch"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/identity"
)

// openSources makes what predictions are made from beside the history. What is missing is degraded, not fatal.
func (d *daemon) openSources(ctx context.Context) {
	d.load = nodeload.New("/proc", "/sys")
	d.openThreats(ctx)
	d.openGates(ctx)
	d.openMonitor(ctx)
	if !d.cfg.Scan.Enabled {
		return
	}
	scanner, err := d.scanner()
	if err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("no static analysis: %v", err))
		log.G(ctx).WithError(err).Warn("forefend daemon: no static analysis")
		return
	}
	d.exploited = exploited.NewBook(d.cfg.Scan.Exploited)
	if _, err := d.exploited.Reload(); err != nil {
		d.degraded = append(d.degraded, err.Error())
		log.G(ctx).WithError(err).Warn("forefend daemon: how exploited vulnerabilities are is the model's estimate")
	}
	d.scans = scans.New(scans.Options{
		Results: d.cfg.ScansDir(), Bytes: d.cfg.Scan.Cache, Wait: d.cfg.Scan.FirstScanWait, Scan: scanner.Scan, Done: d.meter.Scanned,
		Rate: func(s *evidence.Scan) { foresight.Rate(s, d.exploited) },
	})
}

// openThreats makes the threat feeds; Run reads them.
func (d *daemon) openThreats(ctx context.Context) {
	d.threats = &foresight.Threats{Feeds: threat.NewFeeds(threat.Options{
		Dirs: d.cfg.FeedDirs(), HalfLife: d.cfg.Threats.HalfLife, Techniques: techniques.Shipped(),
		ParseTechniques: techniques.Parse, Report: func(s threat.Status) {
			reportFeeds(s)
			d.gates.load(ctx) // Run reports, and begins after openGates
		},
	})}
	d.threats.Reload(time.Now()) // before the first decision: a million prefixes take under three seconds
}

// fetcher downloads the feeds that the site names.
func (d *daemon) fetcher() *fetch.Fetcher {
	f := &fetch.Fetcher{Dir: d.cfg.FetchedDir(), Report: func(s fetch.Source, changed bool, err error) {
		entry := log.L.WithFields(log.Fields{"file": s.File, "changed": changed})
		if err != nil {
			entry.WithError(err).Warn("forefend daemon: threat feed not fetched, the earlier one stays")
			return
		}
		entry.Info("forefend daemon: threat feed fetched")
	}}
	for _, c := range d.cfg.Threats.Fetch {
		f.Sources = append(f.Sources, fetch.Source{URL: c.URL, File: c.File, Every: c.Every, MaxSize: c.MaxSize, Checksum: c.Checksum})
	}
	return f
}

// reportFeeds logs what a reload of the feeds found.
func reportFeeds(s threat.Status) {
	entry := log.L.WithFields(log.Fields{"feeds": len(s.Feeds), "prefixes": s.Prefixes, "names": s.Names, "techniques": s.Techniques,
		"took": s.Took.Round(time.Millisecond).String()})
	for _, p := range s.Problems {
		entry.Warn("forefend daemon: threat feed: " + p.String())
	}
	entry.Info("forefend daemon: threat feeds loaded")
}

// monitorName is the name of the monitor's baselines in the store.
const monitorName = "baselines"

// openMonitor makes the monitor of running containers, with what earlier runs taught it.
func (d *daemon) openMonitor(ctx context.Context) {
	node := monitor.Limits{Memory: float64(nodeMemory()), CPUs: processors()}
	d.monitor = monitor.New(node, *d.threats)
	if _, _, err := d.store.ReadSnapshot(monitorName, d.monitor.Load); err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("anomaly baselines are learned anew: %v", err))
		log.G(ctx).WithError(err).Warn("forefend daemon: anomaly baselines not loaded")
	}
}

// saveMonitor keeps what was learned since the last time.
func (d *daemon) saveMonitor() error {
	return d.monitor.Save(func(w io.WriterTo) error { return d.store.WriteSnapshot(monitorName, 0, w) })
}

// saveEvery is how much of what running containers taught a killed daemon may lose.
const saveEvery = 5 * time.Minute

// watcher shows the monitor to the orchestrator.
func (d *daemon) watcher() orchestrator.Monitor {
	calm := d.cfg.Safeguards.Calm
	if !d.cfg.Safeguards.Live {
		calm = 0 // nothing follows a risk that falls
	}
	return &foresight.Watcher{Monitor: d.monitor, Calm: calm, Now: time.Now}
}

// responder lets safeguards follow the risk of running containers; nil: the site does not want that.
func (d *daemon) responder() orchestrator.Responder {
	s := d.cfg.Safeguards
	if !s.Live {
		return nil
	}
	return &foresight.Responder{
		Table: safeguards(d.cfg), Pace: recommend.Pace{Calm: s.Calm, PerMinute: s.PerMinute}, Sensitive: sensitiveCalls(),
	}
}

// limiter lets predicted memory limits follow what is seen of a run; nil: there are none that are limits.
func (d *daemon) limiter() orchestrator.Limiter {
	if !d.cfg.Airbag.Enabled {
		return nil
	}
	return &foresight.Limiter{Calm: d.cfg.Airbag.Calm, Relax: d.cfg.Safeguards.Calm}
}

// scanner is how this daemon, and the command line, scan.
func (d *daemon) scanner() (scans.Scanner, error) {
	s, err := scannerOf(d.cfg)
	if d.settled { // a scan has no part in the daemon's share of the CPU
		s.Group = d.cgroup(scanGroup)
	}
	return s, err
}

// follower is told of containers and images; nil: nobody scans.
func (d *daemon) follower() identity.Listener {
	if d.scans == nil {
		return nil
	}
	return d.scans.Follow
}

// sources are the models of this node together.
func (d *daemon) sources() *foresight.Sources {
	return &foresight.Sources{
		History: bookHistory{d.book}.predict, Load: d.load.Load, Scans: d.scans, Profiles: d.profiles, Threats: d.threats, Judge: judge(d.cfg),
	}
}

// runSources keeps the sources up to date until ctx ends.
func (d *daemon) runSources(ctx context.Context, beside *sync.WaitGroup) {
	warn := func(what string) func(error) {
		return func(err error) { log.G(ctx).WithError(err).Warn("forefend daemon: " + what) }
	}
	beside.Go(func() { d.gates.run(ctx) })
	beside.Go(func() { d.load.Run(ctx, warn("node load")) })
	beside.Go(func() { d.profiles.Run(ctx, warn("profiles not saved")) })
	if d.scans != nil {
		beside.Go(func() { d.scans.Run(ctx) })
		beside.Go(func() { d.exploited.Keep(ctx, d.scans.Rerate, warn("exploited vulnerabilities")) })
		if scanner, err := d.scanner(); err == nil {
			beside.Go(func() { scanner.KeepIndexed(ctx, warn("vulnerability data")) })
		}
	}
	beside.Go(func() {
		if err := d.threats.Run(ctx); err != nil {
			warn("threat feeds are not followed any more")(err)
		}
	})
	beside.Go(func() {
		if err := d.fetcher().Run(ctx); err != nil {
			warn("threat feeds are not fetched")(err)
		}
	})
	beside.Go(func() {
		tick := time.NewTicker(saveEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := d.saveMonitor(); err != nil {
					warn("anomaly baselines not saved")(err)
				}
			}
		}
	})
}

// scannerOf is how a scan is made under a configuration.
func scannerOf(cfg *config.Config) (scans.Scanner, error) {
	binary, err := scans.Beside()
	return scans.Scanner{Binary: binary, Cache: cfg.ScanCache(), OSV: cfg.Scan.OSV, Time: cfg.Scan.Timeout, Memory: cfg.Scan.Memory}, err
}
