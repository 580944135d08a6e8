package main

import (
	"context"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan"
)

// part is one thing that a scan finds out. It fills its fields of s; it may read those of the parts before it.
type part struct {
	name string
	run  func(ctx context.Context, in input, s *evidence.Scan) error
}

func parts() []part {
	return []part{
		{"system calls", func(ctx context.Context, in input, s *evidence.Scan) error {
			err := scan.Analyze(ctx, in.root, in.req, s)
			s.OneNumbering = err == nil && scan.OneNumbering(in.root, s)
			return err
		}},
		{"memory", prior},
		{"capabilities and ports", wants},
		{"resource sinks", eats},
		{"packages", vulnerabilities},
	}
}
