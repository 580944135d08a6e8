// Command forefend-scan says, without running anything, what a command in a root filesystem will do and need: the
// system calls it may reach, the programs it may execute, its packages and their vulnerabilities. The daemon runs it as
// a child for each image; it parses hostile files and therefore locks itself in before it opens the first.
//
//	forefend-scan --rootfs DIR [--rootfs LOWER …] [--json] [--cache DIR] [--osv DIR|ZIP] [--env NAME=VALUE …] [--cwd DIR]
//	  [--expose PORT …] [--memory-limit BYTES] [--node-cores N] [--node-memory BYTES] -- COMMAND ARGS…
//
//	forefend-scan --index --osv DIR|ZIP --cache DIR
//
// Several --rootfs are the layers of an overlay, topmost first. It exits with 0 when the scan was made, also when
// parts of it failed (they are listed as errors), with 1 when nothing could be said, with 2 on wrong usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan"
	"forefend.dev/forefend/runtime/rootfs"
)

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr, confine)) }

// input is what every part of the scan starts from.
type input struct {
	root  rootfs.Tree
	dirs  []string // the layers that root joins, topmost first
	req   scan.Request
	flags *flag.FlagSet
	where setting
	osv   string // OSV records, a directory or a zip; empty: no vulnerabilities are looked for
}

// run is main; lock is called once, before anything of the image is opened.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, lock func(*input) (string, error)) int {
	in := input{flags: flag.NewFlagSet("forefend-scan", flag.ContinueOnError)}
	in.flags.SetOutput(stderr)
	asJSON := in.flags.Bool("json", false, "print the scan as JSON")
	in.flags.Func("rootfs", "root filesystem, or a layer of it: topmost first", func(dir string) error {
		in.dirs = append(in.dirs, dir)
		return nil
	})
	in.flags.Func("env", "NAME=VALUE of the container's environment", func(pair string) error {
		in.req.Env = append(in.req.Env, pair)
		return nil
	})
	in.flags.StringVar(&in.req.Cwd, "cwd", "/", "working directory of the command")
	in.flags.StringVar(&in.req.Cache, "cache", "", "directory that remembers what was analysed, by content")
	in.flags.StringVar(&in.osv, "osv", "", "OSV records, a directory or a zip; needs --cache, where they are indexed once")
	onlyIndex := in.flags.Bool("index", false, "index the OSV records for later scans, and scan nothing")
	in.where.register(in.flags)
	switch err := in.flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	in.req.Command = in.flags.Args()
	if !*onlyIndex && (len(in.dirs) == 0 || len(in.req.Command) == 0) {
		fmt.Fprintln(stderr, "forefend-scan: need --rootfs DIR and a command: forefend-scan --rootfs DIR -- COMMAND ARGS…")
		return 2
	}
	if (in.osv != "" && in.req.Cache == "") || (*onlyIndex && in.osv == "") {
		fmt.Fprintln(stderr, "forefend-scan: --osv needs --cache DIR, where the index of the records is kept; --index needs both")
		return 2
	}
	lacking, err := lock(&in)
	if err != nil {
		fmt.Fprintf(stderr, "forefend-scan: %v\n", err)
		return 1
	}
	in.root = rootfs.Open(in.dirs)
	what := scanAll
	if *onlyIndex {
		what = index
	}
	s, err := what(ctx, in)
	if err != nil {
		fmt.Fprintf(stderr, "forefend-scan: %v\n", err)
		return 1
	}
	if lacking != "" {
		s.Errors = append(s.Errors, lacking)
	}
	if !*asJSON {
		show(stdout, s)
		return 0
	}
	if err := json.NewEncoder(stdout).Encode(s); err != nil {
		fmt.Fprintf(stderr, "forefend-scan: print the scan: %v\n", err)
		return 1
	}
	return 0
}

// scanAll runs the parts one after the other. One that fails is listed; it is an error when all do.
func scanAll(ctx context.Context, in input) (evidence.Scan, error) {
	start := time.Now()
	s := evidence.Scan{Version: evidence.ScanVersion, Command: in.req.Command}
	var failed []error
	for _, p := range parts() {
		if err := p.run(ctx, in, &s); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", p.name, err))
			s.Errors = append(s.Errors, failed[len(failed)-1].Error())
		}
	}
	s.Seconds = time.Since(start).Seconds()
	if len(failed) == len(parts()) {
		return s, errors.Join(failed...)
	}
	return s, nil
}
