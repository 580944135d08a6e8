package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// node is a private containerd with its account of CPU time.
type node struct {
	*harness.Env
	cpu     *account
	counter int // of container ids
}

// runtimeKind is one of the two runtimes that are compared.
type runtimeKind struct {
	name, shim string
}

var (
	stock    = runtimeKind{"io.containerd.runc.v2", "containerd-shim-runc-v2"}
	forefend = runtimeKind{"io.containerd.forefend.v1", "containerd-shim-forefend-v1"}
)

// inTurn returns the two runtimes in the order of a round: who goes first changes, so that neither always follows the
// other.
func inTurn(round int) []runtimeKind {
	if round%2 == 0 {
		return []runtimeKind{stock, forefend}
	}
	return []runtimeKind{forefend, stock}
}

// openNode starts a containerd. before, if not nil, runs before anything starts Forefend's daemon.
func openNode(ctx context.Context, before func(*node) error, images ...string) (*node, error) {
	return openNodeWith(ctx, "", before, images...)
}

// openNodeWith starts a containerd whose Forefend has a configuration, in TOML.
func openNodeWith(ctx context.Context, config string, before func(*node) error, images ...string) (*node, error) {
	env, err := harness.Start(ctx, harness.WithImages(images...), harness.WithConfig(config))
	if err != nil {
		return nil, err
	}
	n := &node{Env: env}
	if err := n.open(before); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *node) open(before func(*node) error) (err error) {
	if n.cpu, err = openAccount(n.Namespace); err != nil {
		return err
	}
	if err := n.place("containerd", containerdGroup); err != nil {
		return err
	}
	if before != nil {
		if err := before(n); err != nil {
			return err
		}
	}
	if err := n.Forefend("daemon", "--detach").Check(); err != nil {
		return err
	}
	return n.place("forefend", daemonGroup, "daemon")
}

// place moves the one process that runs a program into a group of its own.
func (n *node) place(program, group string, words ...string) error {
	pid, err := n.pid(program, words...)
	if err != nil {
		return err
	}
	return n.cpu.place(pid, group)
}

func (n *node) pid(program string, words ...string) (int, error) {
	pids, err := n.Pids(program, words...)
	if err != nil {
		return 0, err
	}
	if len(pids) != 1 {
		return 0, fmt.Errorf("%d processes run %s %s", len(pids), program, strings.Join(words, " "))
	}
	return pids[0], nil
}

func (n *node) close() error {
	var err error
	if n.cpu != nil {
		err = n.cpu.close()
	}
	return errors.Join(err, n.Close())
}

// id returns a name that no container had.
func (n *node) id(kind runtimeKind) string {
	n.counter++
	return fmt.Sprintf("%s-%d", filepath.Ext(kind.name)[1:], n.counter)
}

// ctr runs ctr and returns the ended command, whose state holds its own CPU time, and what it printed.
func (n *node) ctr(ctx context.Context, args ...string) (*exec.Cmd, string, error) {
	cmd := n.CtrCommand(ctx, args...)
	text, err := outputOf(cmd)
	return cmd, text, err
}

// explain returns the decision about a container.
func (n *node) explain(ctx context.Context, id string) (d api.Decision, err error) {
	text, err := outputOf(n.ForefendCommand(ctx, "explain", "--json", id))
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal([]byte(text), &d)
}

// sealed fails when a container ran without a sealed policy: its figures would not be those of a sealed one.
func (n *node) sealed(ctx context.Context, id string) error {
	d, err := n.explain(ctx, id)
	if err != nil {
		return err
	}
	if !d.Effective.Sealed() || d.Availability != api.ByDaemon {
		return fmt.Errorf("%s was decided by %s from %d runs and is not sealed", id, d.Availability, d.Prediction.Runs)
	}
	return nil
}

func outputOf(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
