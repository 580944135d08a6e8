package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/internal/config"
)

// turnEvery is how often the size of the daemon's log is looked at.
const turnEvery = time.Minute

// setLogging makes the log of this process what the site wants.
func setLogging(cfg *config.Config) error {
	format := log.TextFormat
	if cfg.LogFormat == "json" {
		format = log.JSONFormat
	}
	if err := log.SetFormat(format); err != nil {
		return fmt.Errorf("log format: %w", err)
	}
	if err := log.SetLevel(cfg.LogLevel); err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	return nil
}

// keepLog bounds the log of a daemon that lives long, until ctx ends.
func (d *daemon) keepLog(ctx context.Context) {
	tick := time.NewTicker(turnEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := turnLog(d.cfg.Log(), maxLog); err != nil {
				log.G(ctx).WithError(err).Warn("forefend daemon: its log grows beyond its bound")
			}
		}
	}
}

// turnLog begins a new log at path when the present one is larger than most, and keeps that as .1. It does nothing in a
// process whose errors go elsewhere: to a terminal, or to a service manager.
func turnLog(path string, most int64) error {
	var ours, named unix.Stat_t
	if unix.Fstat(unix.Stderr, &ours) != nil || unix.Stat(path, &named) != nil || ours.Dev != named.Dev || ours.Ino != named.Ino || ours.Size <= most {
		return nil
	}
	if err := os.Rename(path, path+".1"); err != nil {
		return fmt.Errorf("turn the log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("turn the log: %w", err)
	}
	defer f.Close()
	// What is written to the descriptors meanwhile, a panic's trace included, lands in the old file or the new.
	for _, fd := range []int{unix.Stdout, unix.Stderr} {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("turn the log: %w", err)
		}
	}
	return nil
}
