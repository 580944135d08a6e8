// Command conformance runs public conformance suites of the container runtime interface against a containerd of its
// own, once with stock runc as the runtime handler and once with Forefend, and compares test by test; `make
// test-critest` runs it. Tests that do not end the same are run again, twice: the suites have races, and a machine has
// other work. It ends with 1 when a test never ended the same. A test that fails under both says something about this
// machine, or about the images that stand in for the suites' own, and is only listed.
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
	all, err := runAll(ctx, out, s, o)
	if err != nil {
		return err
	}
	listFailures(out, all)
	if len(all) < 2 {
		return nil
	}
	found := differences(all[0], all[1])
	for range again {
		if len(found) == 0 {
			break
		}
		repeated := o
		repeated.focus = s.only(names(found))
		repeated.out = filepath.Join(o.out, "again")
		fmt.Fprintf(out, "\n%d tests did not end the same; once more:\n  %s\n", len(found), strings.Join(names(found), "\n  "))
		if err := os.MkdirAll(repeated.out, 0o755); err != nil {
			return err
		}
		if all, err = runAll(ctx, out, s, repeated); err != nil {
			return err
		}
		found = both(found, differences(all[0], all[1]))
	}
	return report(out, o, found)
}

// again is how often tests that differed are run again.
const again = 2

// runAll runs a suite under every runtime handler.
func runAll(ctx context.Context, out io.Writer, s suite, o options) ([]results, error) {
	all := make([]results, len(o.runtimes))
	for i, handler := range o.runtimes {
		var err error
		if all[i], err = runSuite(ctx, s, o, handler); err != nil {
			return nil, fmt.Errorf("%s under %s: %w", o.suite, handler, err)
		}
		fmt.Fprintf(out, "%s under %s: %d passed, %d failed, %d skipped\n", o.suite, handler,
			all[i].count(passed), all[i].count(failed), all[i].count(skipped))
	}
	return all, nil
}

// listFailures lists what failed everywhere.
func listFailures(out io.Writer, all []results) {
	for _, name := range sortedKeys(all[0]) {
		if all[0][name].outcome == failed && (len(all) < 2 || all[1][name].outcome == failed) {
			fmt.Fprintf(out, "\nfails under all: %s\n  %s\n", name, indent(firstLines(all[0][name].why, 4)))
		}
	}
}

// report says which tests never ended the same.
func report(out io.Writer, o options, found []difference) error {
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
