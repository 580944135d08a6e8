package scans

import (
	"context"
	"fmt"
	"time"

	"forefend.dev/forefend/predictor/scan/sandbox"
)

const (
	indexEvery  = 10 * time.Minute // how often new OSV records are looked for
	indexTime   = 10 * time.Minute // most that an index may take
	indexMemory = 1 << 30
)

// Index makes the OSV records ready for scans, in the scanner's sandbox. It is quick when they are already.
func (s Scanner) Index(ctx context.Context) error {
	if s.OSV == "" || s.Cache == "" {
		return nil
	}
	args := []string{"--json", "--index", "--osv", s.OSV, "--cache", s.Cache}
	limits := sandbox.Limits{Time: indexTime, Memory: indexMemory, Started: s.giveWay}
	if _, err := sandbox.Run(ctx, s.Binary, args, limits); err != nil {
		return fmt.Errorf("index OSV records: %w", err)
	}
	return nil
}

// KeepIndexed does so now and whenever the records may have changed, until ctx ends. failed is told each failure.
func (s Scanner) KeepIndexed(ctx context.Context, failed func(error)) {
	if s.OSV == "" || s.Cache == "" {
		return
	}
	tick := time.NewTicker(indexEvery)
	defer tick.Stop()
	for {
		if err := s.Index(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
