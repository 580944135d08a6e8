package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/log"

	"forefend.dev/forefend/cmd/forefend/foresight"
	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/predictor/nodeload"
)

// openSources makes what predictions are made from beside the history. What is missing is degraded, not fatal.
func (d *daemon) openSources(ctx context.Context) {
	d.load = nodeload.New("/proc", "/sys")
	if !d.cfg.Scan.Enabled {
		return
	}
	scanner, err := d.scanner()
	if err != nil {
		d.degraded = append(d.degraded, fmt.Sprintf("no static analysis: %v", err))
		log.G(ctx).WithError(err).Warn("forefend daemon: no static analysis")
		return
	}
	d.scans = scans.New(scans.Options{
		Results: d.cfg.ScansDir(), Bytes: d.cfg.Scan.Cache, Wait: d.cfg.Scan.FirstScanWait, Scan: scanner.Scan, Done: d.meter.Scanned,
	})
}

// scanner is how this daemon, and the command line, scan.
func (d *daemon) scanner() (scans.Scanner, error) { return scannerOf(d.cfg) }

// sources are the models of this node together.
func (d *daemon) sources() *foresight.Sources {
	return &foresight.Sources{
		History: bookHistory{d.book}.predict, Load: d.load.Load, Scans: d.scans, Profiles: d.profiles, Judge: judge(d.cfg),
	}
}

// runSources keeps the sources up to date until ctx ends.
func (d *daemon) runSources(ctx context.Context, beside *sync.WaitGroup) {
	warn := func(what string) func(error) {
		return func(err error) { log.G(ctx).WithError(err).Warn("forefend daemon: " + what) }
	}
	beside.Go(func() { d.load.Run(ctx, warn("node load")) })
	beside.Go(func() { d.profiles.Run(ctx, warn("profiles not saved")) })
	if d.scans != nil {
		beside.Go(func() { d.scans.Run(ctx) })
	}
}

// scannerOf is how a scan is made under a configuration.
func scannerOf(cfg *config.Config) (scans.Scanner, error) {
	binary, err := scans.Beside()
	return scans.Scanner{Binary: binary, Cache: cfg.ScanCache(), OSV: cfg.Scan.OSV, Time: cfg.Scan.Timeout, Memory: cfg.Scan.Memory}, err
}
