package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// commandTimeout ends a command that hangs; no test waits longer for one.
const commandTimeout = 3 * time.Minute

// Result is how a command ended.
type Result struct {
	Args   []string
	Stdout string
	Stderr string
	// Code is the exit status, -1 if a signal or the timeout ended the command, or if it could not be started.
	Code int
	// Err is set when the command could not be started or was ended from outside.
	Err error
}

// Check returns nil when the command ended with 0, and else an error that shows the command and what it said.
func (r Result) Check() error {
	if r.Err == nil && r.Code == 0 {
		return nil
	}
	err := fmt.Errorf("%s: exit status %d: %s", strings.Join(r.Args, " "), r.Code, strings.TrimSpace(r.Stderr))
	return errors.Join(err, r.Err)
}

// Ctr runs ctr against this environment, in its namespace.
func (e *Env) Ctr(args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return e.run(e.CtrCommand(ctx, args...))
}

// CtrCommand is ctr as a command that the caller starts: for standard input, a terminal, or a life of its own.
func (e *Env) CtrCommand(ctx context.Context, args ...string) *exec.Cmd {
	return e.command(ctx, "ctr", append([]string{"-a", e.Address, "-n", e.Namespace}, args...)...)
}

// Forefend runs bin/forefend with this environment's configuration.
func (e *Env) Forefend(args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return e.run(e.ForefendCommand(ctx, args...))
}

// ForefendCommand is bin/forefend as a command that the caller starts.
func (e *Env) ForefendCommand(ctx context.Context, args ...string) *exec.Cmd {
	return e.command(ctx, "forefend", args...)
}

// command is a binary of ours, or of this environment's containerd, with the environment it needs.
func (e *Env) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.binary(name), args...)
	cmd.Env = e.environ()
	// A descendant that kept the output open must not make us wait for ever.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// environ is this process's environment with our binaries first and our configuration named. The configuration's path
// in it is also what marks a process as belonging to this environment.
func (e *Env) environ() []string {
	return append(os.Environ(),
		"PATH="+e.path(),
		configVariable+"="+e.ConfigPath,
		"CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1", // ctr would say on every call that cgroup v1 is old
		"CONTAINERD_ADDRESS="+e.Address,
		"CONTAINERD_NAMESPACE="+e.Namespace,
	)
}

const configVariable = "FOREFEND_CONFIG"

func (e *Env) run(cmd *exec.Cmd) Result {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := Result{
		Args: append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...), Code: -1,
		Stdout: stdout.String(), Stderr: stderr.String(), Err: err,
	}
	if cmd.ProcessState != nil {
		r.Code = cmd.ProcessState.ExitCode()
	}
	if _, ok := errors.AsType[*exec.ExitError](err); ok && r.Code >= 0 {
		r.Err = nil // an exit status is a result, not a failure to run
	}
	return r
}
