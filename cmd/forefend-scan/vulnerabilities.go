package main

import (
	"context"
	"errors"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/advisory"
	"forefend.dev/forefend/predictor/scan/packages"
)

// vulnerabilities lists packages, and what is known against them where there are advisories (--osv).
func vulnerabilities(ctx context.Context, in input, s *evidence.Scan) (err error) {
	o := packages.Options{Cwd: in.req.Cwd}
	if in.osv != "" {
		x, e := advisory.Cached(ctx, in.osv, in.req.Cache)
		if e == nil {
			o.Index = x
			defer func() { err = errors.Join(err, x.Close()) }()
		}
		err = e
	}
	return errors.Join(err, packages.Scan(ctx, in.root, o, s))
}
