package main

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

// The exit codes of every command; docs/cli.md promises them.
const (
	exitOK       = 0
	exitFailed   = 1 // it did not work, or what was checked is not in order
	exitUsage    = 2 // the command line is wrong
	exitNoDaemon = 3 // no daemon is running, or no tunneld
	exitNotFound = 4 // the daemon runs and knows no such container, workload or image
)

var (
	// errNoDaemon is returned when nobody listens on the daemon's socket.
	errNoDaemon = errors.New("no forefend daemon is running; it starts with the first container, or run: forefend daemon")
	// errQuiet says that the command failed and has already said why.
	errQuiet = errors.New("failed")
)

// usageError is a wrong command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usage(cmd *cobra.Command, err error) error {
	return usageError{fmt.Errorf("%w\nSee: %s --help", err, cmd.CommandPath())}
}

// asUsage makes the errors of positional arguments usage errors, in a command and those below it.
func asUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage(cmd, err)
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		asUsage(sub)
	}
}

func exitCode(err error) int {
	var u usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &u):
		return exitUsage
	case errors.Is(err, errNoDaemon), errors.Is(err, errNoTunnels):
		return exitNoDaemon
	case errdefs.IsNotFound(err):
		return exitNotFound
	}
	return exitFailed
}
