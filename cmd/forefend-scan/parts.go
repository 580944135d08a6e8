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
			return scan.Analyze(ctx, in.root, in.req, s)
		}},
		{"memory", prior},
		{"capabilities and ports", wants},
		{"resource sinks", eats},
		{"packages", vulnerabilities},
	}
}
