// Command bench measures Forefend against stock runc on this machine and prints a table; `make bench` runs it. The two
// take turns within one run, so that what else happens on the machine happens to both; what is compared is pairs. It
// uses a containerd of its own (test/e2e/harness) and leaves nothing behind.
//
//	COUNT=n           paired rounds, 60 by default
//	BASE=ref          compare Go benchmarks with those of a git ref instead, in COUNT turns
//	-only a,b         some measurements only; -list names them
//	-json FILE        the figures with every raw sample
//	-containers n     how many containers stand idle for the daemon's figures
//
// A figure that misses its target does not fail the command: it measures, it does not judge. It is not for
// profiling. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == insideCommand {
		os.Exit(inside(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what all measurements share.
type bench struct {
	out        io.Writer
	rounds     int
	containers int
}

// measurement makes one or more rows of the table.
type measurement struct {
	name string
	what string
	run  func(context.Context, *bench) ([]figure, error)
}

// measurements in the order in which they run.
var measurements = []measurement{
	{"life", "CPU and wall time of ctr run --rm", measureLife},
	{"shim", "memory of shims", measureShims},
	{"calls", "cost of native and watched system calls", measureCalls},
	{"servers", "requests per CPU second of redis and nginx", measureServers},
	{"live", "requests per CPU second of redis and nginx with phases and airbag, and without; the supervisor's CPU time", measureLive},
	{"notices", "notifications per second and the supervisor's CPU time for redis, nginx, postgres and python", measureNotices},
	{"network", "networks switched, destinations blocked, threat feeds loaded", measureNetwork},
	{"agent", "agents injected, replaced and at rest", measureAgent},
	{"egress", "requests through the interceptor, against haproxy and nginx", measureEgress},
	{"streams", "HTTP/2 and gRPC through the interceptor, against haproxy and Go's ReverseProxy", measureStreams},
	{"daemon", "a fresh daemon; Admit and the daemon at 10,000 known workloads", measureDaemon},
}

func run(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "comma-separated `NAMES` of measurements")
	list := flags.Bool("list", false, "list the measurements")
	jsonFile := flags.String("json", "", "write figures and raw samples to `FILE`")
	containers := flags.Int("containers", 50, "containers that start at once and then stand idle")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *list {
		for _, m := range measurements {
			fmt.Fprintf(out, "%-10s %s\n", m.name, m.what)
		}
		return nil
	}
	if base := os.Getenv("BASE"); base != "" {
		turns, err := number(os.Getenv("COUNT"), compareTurns)
		if err != nil {
			return err
		}
		return compareBenchmarks(ctx, out, base, turns)
	}
	rounds, err := number(os.Getenv("COUNT"), 60)
	if err != nil {
		return err
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	r := &report{Machine: thisMachine(), Command: "make bench", Rounds: rounds}
	if len(args) > 0 {
		r.Command = "go run ./test/bench " + strings.Join(args, " ")
	}
	failed := r.measure(ctx, &bench{out: out, rounds: rounds, containers: *containers}, chosen)
	r.print(out)
	if *jsonFile != "" {
		failed = errors.Join(failed, r.save(*jsonFile))
	}
	return failed
}

// measure runs the chosen measurements. One that fails is reported and the others go on.
func (r *report) measure(ctx context.Context, b *bench, chosen []measurement) error {
	var failed error
	for _, m := range chosen {
		begin, before := time.Now(), load()
		fmt.Fprintf(b.out, "%-8s %s ... load %s\n", m.name, m.what, before)
		figures, err := m.run(ctx, b)
		for i := range figures {
			figures[i].Load = [2]string{before, load()}
		}
		r.Figures = append(r.Figures, figures...)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", m.name, err))
		}
		if ctx.Err() != nil {
			return failed
		}
		fmt.Fprintf(b.out, "%-8s %.0f s, load %s\n", "", time.Since(begin).Seconds(), load())
	}
	r.LoadAfter = load()
	return failed
}

// number reads COUNT.
func number(count string, byDefault int) (int, error) {
	if count == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("COUNT=%q: not a number of rounds", count)
	}
	return n, nil
}

func choose(only string) ([]measurement, error) {
	if only == "" {
		return measurements, nil
	}
	names := strings.Split(only, ",")
	chosen := slices.DeleteFunc(slices.Clone(measurements), func(m measurement) bool { return !slices.Contains(names, m.name) })
	if len(chosen) != len(names) {
		return nil, fmt.Errorf("-only %s: -list names the measurements", only)
	}
	return chosen, nil
}
