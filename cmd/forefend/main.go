// Command forefend is Forefend for people: what runs and under which policy (ps, explain), what was learned (history),
// what happened (events), whether this node and its configuration are fit (doctor, policy check), and the node daemon
// itself (daemon). docs/cli.md documents the commands, their exit codes and the JSON they print.
//
// The commands only ask the daemon over its socket. None but `forefend daemon` starts one: a daemon comes into being
// with the first container.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is set by the linker.
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, &app{stdout: os.Stdout, stderr: os.Stderr, now: time.Now}, os.Args[1:])
	stop()
	os.Exit(code)
}
