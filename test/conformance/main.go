// Command conformance runs public conformance suites of the container runtime interface against a containerd of its
// own, once with stock runc as the runtime handler and once with Forefend, and compares test by test; `make
// test-critest` runs it. It ends with 1 when a test did not end the same under both. A test that fails under both says
// something about this machine, or about the images that stand in for the suites' own, and is only listed.
//
//	-suite critest|containerd   the suite of sigs.k8s.io/cri-tools, or containerd's own for CRI
//	-focus RE, -skip RE         only some of its tests
//	-out DIR                    where reports and logs go
//	-runtimes a,b               runtime handlers, stock first
//
// It is not part of CI: the suites take many minutes and are not ours. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"forefend.dev/forefend/test/e2e/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	suite, focus, skip, out string
	runtimes                []string
}

func run(ctx context.Context, out io.Writer, args []string) error {
	var o options
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	flags.StringVar(&o.suite, "suite", "critest", "critest or containerd")
	flags.StringVar(&o.focus, "focus", "", "run only tests that match")
	flags.StringVar(&o.skip, "skip", "", "leave out tests that match")
	flags.StringVar(&o.out, "out", filepath.Join(".cache", "conformance"), "directory for reports and logs")
	runtimes := flags.String("runtimes", "runc,forefend", "runtime handlers to compare")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.runtimes = strings.Split(*runtimes, ",")
	s, ok := suites[o.suite]
	if !ok {
		return fmt.Errorf("no suite %q", o.suite)
	}
	var err error
	if o.out, err = filepath.Abs(filepath.Join(o.out, o.suite)); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	all := make([]results, len(o.runtimes))
	for i, handler := range o.runtimes {
		if all[i], err = runSuite(ctx, s, o, handler); err != nil {
			return fmt.Errorf("%s under %s: %w", o.suite, handler, err)
		}
		fmt.Fprintf(out, "%s under %s: %d passed, %d failed, %d skipped\n", o.suite, handler,
			all[i].count(passed), all[i].count(failed), all[i].count(skipped))
	}
	return compare(out, o, all)
}

func compare(out io.Writer, o options, all []results) error {
	for name, r := range all[0] {
		if r.outcome == failed && (len(all) < 2 || all[1][name].outcome == failed) {
			fmt.Fprintf(out, "\nfails under both: %s\n  %s\n", name, indent(firstLines(r.why, 4)))
		}
	}
	if len(all) < 2 {
		return nil
	}
	found := differences(all[0], all[1])
	for _, d := range found {
		why := d.forefend.why
		if d.forefend.outcome != failed {
			why = d.stock.why
		}
		fmt.Fprintf(out, "\nDIFFERENT: %s\n  %s %s, %s %s\n  %s\n", d.name,
			o.runtimes[0], d.stock.outcome, o.runtimes[1], d.forefend.outcome, indent(firstLines(why, 12)))
	}
	if len(found) > 0 {
		return fmt.Errorf("%d tests did not end the same; logs are in %s", len(found), o.out)
	}
	fmt.Fprintln(out, "\nno difference")
	return nil
}

func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }

// runSuite runs one suite under one runtime handler, in an environment of its own.
func runSuite(ctx context.Context, s suite, o options, handler string) (_ results, err error) {
	images, err := suiteImages(filepath.Join(".cache", "images"))
	if err != nil {
		return nil, err
	}
	e, err := harness.Start(ctx, harness.WithCRI())
	if err != nil {
		return nil, err
	}
	logs := filepath.Join(o.out, handler)
	defer func() {
		err = errors.Join(err, copyFile(e.ContainerdLog(), logs+".containerd.log"), copyFile(e.DaemonLog(), logs+".forefend.log"), e.Close())
	}()
	server, err := newRegistry(images).serve(e)
	if err != nil {
		return nil, err
	}
	defer server.Close()
	return s.run(ctx, e, o, handler)
}

// copyFile keeps a log; one that was never written is no failure.
func copyFile(from, to string) error {
	body, err := os.ReadFile(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, body, 0o644)
}
