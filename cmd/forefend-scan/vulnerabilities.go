package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/predictor/scan/advisory"
	"forefend.dev/forefend/predictor/scan/packages"
)

// indexWithin is how long a scan spends on an index of the advisories that nobody has made yet. It does for a few
// thousand records; a whole export takes the better part of a minute, see --index.
const indexWithin = 2 * time.Second

// vulnerabilities lists packages, and what is known against them where there are advisories (--osv).
func vulnerabilities(ctx context.Context, in input, s *evidence.Scan) (err error) {
	o := packages.Options{Cwd: in.req.Cwd, Exploited: exploited}
	if in.osv != "" {
		x, e := advisories(ctx, in)
		if e == nil {
			o.Index = x
			defer func() { err = errors.Join(err, x.Close()) }()
		}
		err = e
	}
	return errors.Join(err, packages.Scan(ctx, in.root, o, s))
}

// exploited is the risk model's estimate from what an advisory says.
func exploited(v evidence.Vulnerability) float64 {
	return risk.Exploitation(risk.Features{CVSS: v.Severity, Vector: v.Vector, CWE: v.CWE})
}

func advisories(ctx context.Context, in input) (*advisory.Index, error) {
	x, err := advisory.Remembered(in.osv, in.req.Cache)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, advisory.ErrDamaged) {
		return x, err
	}
	timed, cancel := context.WithTimeout(ctx, indexWithin)
	defer cancel()
	x, err = advisory.Cached(timed, in.osv, in.req.Cache)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("the OSV records are not indexed yet: forefend-scan --index --osv %s --cache DIR does it", in.osv)
	}
	return x, err
}

// index prepares the advisories for the scans to come.
func index(ctx context.Context, in input) (evidence.Scan, error) {
	start := time.Now()
	x, err := advisory.Cached(ctx, in.osv, in.req.Cache)
	if err != nil {
		return evidence.Scan{}, err
	}
	return evidence.Scan{Version: evidence.ScanVersion, Seconds: time.Since(start).Seconds()}, x.Close()
}
