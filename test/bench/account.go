package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/cgroup"
)

// account adds up CPU time by cgroups, which miss nobody: a process that lived for a millisecond is charged like one
// that stays, and what was charged to a group stays in its parent when the group is removed.
//
// All of a node is below one cgroup, the containerd namespace's. runc makes the containers' groups there; below it
// too are the groups made here: containerd's, in which all shims and every runc they start are born, and that of
// Forefend's daemon. The clients (ctr, load generators, this process) are outside. So is work the kernel does on its own behalf,
// like taking down namespaces and writing back files, the same for both runtimes.
type account struct {
	root string   // of the hierarchy that counts
	top  string   // the node's group
	made []string // groups made here
}

// Groups made by account, below the node's.
const (
	containerdGroup = "bench.containerd"
	daemonGroup     = "bench.daemon"
)

// openAccount starts counting for the containers of a namespace, whose groups runc makes below "/NAMESPACE".
func openAccount(namespace string) (*account, error) {
	dirOf := func(name string) (string, error) {
		g, err := cgroup.Named(name)
		if g.Paths["cpuacct"] != "" {
			return g.Paths["cpuacct"], err
		}
		return g.Unified, err
	}
	top, err := dirOf(namespace)
	if err != nil || top == "" {
		return nil, errors.Join(errors.New("no cgroup hierarchy counts CPU time"), err)
	}
	a := &account{top: top, root: filepath.Dir(top)}
	return a, os.MkdirAll(top, 0o755)
}

// place moves a process into a group of its own below the node's.
func (a *account) place(pid int, group string) error {
	dir := filepath.Join(a.top, group)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	a.made = append(a.made, dir)
	return move(pid, dir)
}

func move(pid int, dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// cpu returns the CPU time charged so far, in seconds, to a group below the node's, or to the whole node for "".
func (a *account) cpu(group string) (float64, error) {
	dir := filepath.Join(a.top, group)
	if text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage")); err == nil {
		ns, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		return float64(ns) / 1e9, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return 0, err
	}
	us, err := strconv.ParseUint(match(`(?m)^usage_usec (\d+)$`, string(text)), 10, 64)
	return float64(us) / 1e6, err
}

// members lists the processes of a group.
func (a *account) members(group string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(a.top, group, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// quiet waits until containerd is alone in its group: all shims have ended, and with them what they did last.
func (a *account) quiet(ctx context.Context) error {
	for {
		pids, err := a.members(containerdGroup)
		if err != nil || len(pids) <= 1 {
			return err
		}
		if err := wait(ctx, 2*time.Millisecond); err != nil {
			return fmt.Errorf("%d processes beside containerd do not end: %w", len(pids)-1, err)
		}
	}
}

// close moves everybody out and removes the groups made here.
func (a *account) close() error {
	var failed []error
	for _, dir := range a.made {
		pids, err := a.members(filepath.Base(dir))
		if errors.Is(err, os.ErrNotExist) {
			continue // placed twice
		}
		failed = append(failed, err)
		for _, pid := range pids {
			_ = move(pid, a.root) // it may just have ended
		}
		failed = append(failed, os.Remove(dir))
	}
	return errors.Join(failed...)
}

// wait lets d pass, unless ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
