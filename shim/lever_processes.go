package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
)

// processesLever moves what the kernel keeps for each process: resource limits and the score by which it chooses whom to
// kill. It changes every process of the container; later execs are clipped to the policy by rewrite.Process.
type processesLever struct{}

func (processesLever) name() string { return "processes" }

func (processesLever) holds(k policy.Key) bool {
	family, _ := k.Family()
	return family == policy.KeyRlimits || family == policy.KeyOOMScore
}

func (l processesLever) move(_ context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	plan, err := planProcesses(&c.spec, before, after)
	if err != nil {
		return nil, err
	}
	var undone undoing
	if err := plan.apply(cgroup.FromMap(c.cgroup), &undone); err != nil {
		return nil, errors.Join(err, undone.run())
	}
	return func(context.Context) error { return undone.run() }, nil
}

// processPlan is what every process is to have.
type processPlan struct {
	limits map[int]unix.Rlimit // by resource
	names  map[int]string
	score  *int
}

// planProcesses works out what changes. A limit that nobody decides any more is what the container was created with.
func planProcesses(created *specs.Spec, before, after policy.Effective) (processPlan, error) {
	p := processPlan{limits: make(map[int]unix.Rlimit), names: make(map[int]string)}
	was, is := before.Members(policy.KeyRlimits), after.Members(policy.KeyRlimits)
	for _, name := range slices.Sorted(maps.Keys(either(was, is))) {
		v, decided := is[name]
		if old, had := was[name]; had && decided && old == v {
			continue
		}
		first := createdRlimit(created, name)
		switch {
		case decided && first == nil:
			first = &unix.Rlimit{Cur: rewrite.HardLimit(v), Max: rewrite.HardLimit(v)}
		case decided:
			first = fit(*first, rewrite.HardLimit(v))
		case first == nil:
			return p, fmt.Errorf("rlimits/%s: what it was before it was set is not known, so it cannot be unset; set it to the value it should have: %w", name, errdefs.ErrFailedPrecondition)
		}
		resource, ok := rlimitNumbers[name]
		if !ok {
			return p, fmt.Errorf("%.40s is not a resource limit of Linux: %w", name, errdefs.ErrInvalidArgument)
		}
		p.limits[resource], p.names[resource] = *first, name
	}
	wasScore, had := before.Lookup(policy.KeyOOMScore)
	isScore, has := after.Lookup(policy.KeyOOMScore)
	if had != has || wasScore.Value != isScore.Value {
		adj, err := createdScore(created)
		if has {
			adj, err = policy.FromOOMScore(isScore.Value), nil
		}
		if err != nil {
			return p, err
		}
		p.score = &adj
	}
	return p, nil
}

func either(a, b map[string]policy.Value) map[string]policy.Value {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// fit gives a limit another hard one. As at creation, the soft one is lowered to fit and never raised: a process may raise
// its own.
func fit(l unix.Rlimit, hard uint64) *unix.Rlimit {
	return &unix.Rlimit{Cur: min(l.Cur, hard), Max: hard}
}

func createdRlimit(spec *specs.Spec, name string) (found *unix.Rlimit) {
	if spec.Process == nil {
		return nil
	}
	for _, l := range spec.Process.Rlimits {
		if l.Type == name {
			found = &unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		}
	}
	return found
}

// scoreExecuted gives what was executed in a container the OOM score in force, where that is another than at the creation: runc
// knows no other. It changes all of the container's processes, as a child of the executed one may have been quicker.
func scoreExecuted(c *container) error {
	const again = 3 // a change may come between
	for range again {
		f, decided := c.current().Effective.Lookup(policy.KeyOOMScore)
		created, err := createdScore(&c.spec)
		if err != nil || !decided || policy.FromOOMScore(f.Value) == created {
			return err
		}
		score := policy.FromOOMScore(f.Value)
		if err := (processPlan{score: &score}).apply(cgroup.FromMap(c.cgroup), new(undoing)); err != nil {
			return ended(err)
		}
		if now, _ := c.current().Effective.Lookup(policy.KeyOOMScore); now.Value == f.Value {
			return nil
		}
	}
	return errors.New("it is changed over and over")
}

// createdScore is the OOM score that a container began with: the spec's, else the shim's own, which is inherited.
func createdScore(spec *specs.Spec) (int, error) {
	if spec.Process != nil && spec.Process.OOMScoreAdj != nil {
		return *spec.Process.OOMScoreAdj, nil
	}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("oom_score_adj: what it was before it was set: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// apply changes every process of the group, and again those that were born meanwhile: a child has what its parent had.
func (p processPlan) apply(group cgroup.Group, undone *undoing) error {
	seen := make(map[int]bool)
	const rounds = 100 // a fork bomb does not hold the shim up for ever
	for range rounds {
		pids, err := group.PIDs()
		if err != nil {
			return err
		}
		fresh := 0
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			seen[pid] = true
			fresh++
			if err := p.change(pid, undone); err != nil {
				return err
			}
		}
		if fresh == 0 {
			return nil
		}
	}
	return errors.New("new processes appear faster than their limits can be set")
}

// change changes one process and reads back that it did. One that has ended meanwhile needs no limits.
func (p processPlan) change(pid int, undone *undoing) error {
	for resource, want := range p.limits {
		var old, has unix.Rlimit
		err := unix.Prlimit(pid, resource, &want, &old)
		if err == nil {
			undone.add(func() error { return ended(unix.Prlimit(pid, resource, &old, nil)) })
			err = unix.Prlimit(pid, resource, nil, &has)
		}
		switch {
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("rlimits/%s: to raise the hard limit needs CAP_SYS_RESOURCE, which Forefend's shim does not have on this node: %w", p.names[resource], errdefs.ErrFailedPrecondition)
		case ended(err) != nil:
			return fmt.Errorf("rlimits/%s of process %d: %w", p.names[resource], pid, err)
		case err == nil && has != want:
			return fmt.Errorf("rlimits/%s of process %d: the kernel has %d, not %d", p.names[resource], pid, has.Max, want.Max)
		}
	}
	if p.score == nil {
		return nil
	}
	path := filepath.Join("/proc", strconv.Itoa(pid), "oom_score_adj")
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(strconv.Itoa(*p.score)), 0)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("oom_score_adj: %d is less than the container was created with, which needs CAP_SYS_RESOURCE, which Forefend's shim does not have on this node: %w", *p.score, errdefs.ErrFailedPrecondition)
	case ended(err) != nil:
		return fmt.Errorf("oom_score_adj of process %d: %w", pid, err)
	case err == nil:
		undone.add(func() error { return ended(os.WriteFile(path, []byte(strings.TrimSpace(string(old))), 0)) })
	}
	return nil
}

// ended leaves out the error of a process that is no more.
func ended(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// undoing collects how to go back.
type undoing []func() error

func (u *undoing) add(f func() error) { *u = append(*u, f) }

// run goes back, the last step first.
func (u undoing) run() error {
	var errs []error
	for _, f := range slices.Backward(u) {
		errs = append(errs, f())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("and what had been changed could not be put back: %w", err)
	}
	return nil
}

var rlimitNumbers = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}
