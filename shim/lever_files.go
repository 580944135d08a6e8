package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/mounts"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// filesDeadline is how long a file system of the container may take to answer.
const filesDeadline = 3 * time.Second

// filesLever hides paths, makes them and the root file system read-only, and takes that back (docs/decisions/0061).
type filesLever struct{ s *Service }

func (filesLever) name() string { return "files" }

func (filesLever) holds(k policy.Key) bool { return k.Dimension() == policy.Filesystem }

func (l filesLever) move(ctx context.Context, c *container, before, after policy.Effective, _ manner) (func(context.Context) error, error) {
	change := fileChange(before, after)
	switch ns := namespaceOf(&c.spec, specs.MountNamespace); {
	case ns == nil:
		return nil, fmt.Errorf("the container is in the host's mount namespace, its files are the host's: %w", errdefs.ErrFailedPrecondition)
	case ns.Path != "":
		return nil, fmt.Errorf("the container shares its mount namespace with others: %w", errdefs.ErrFailedPrecondition)
	case c.files == nil:
		return nil, fmt.Errorf("what runc mounted for this container is not known: %w", errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, filesDeadline)
	defer cancel()
	undo, err := c.files.Apply(ctx, change)
	if err != nil {
		return nil, err
	}
	l.warn(c, slices.Concat(change.Mask, change.Protect))
	return undo, nil
}

// fileChange is what has to be done about a container's files.
func fileChange(before, after policy.Effective) mounts.Change {
	var c mounts.Change
	c.Mask, c.Unmask = tightened(before, after, policy.KeyMaskedPaths)
	c.Protect, c.Release = tightened(before, after, policy.KeyReadonlyPaths)
	was, is := before.Value(policy.KeyReadonlyRoot, policy.Loose), after.Value(policy.KeyReadonlyRoot, policy.Loose)
	if readonly := is == policy.Tight; was != is {
		c.Root = &readonly
	}
	return c
}

// tightened lists the members of a family that are tight in after alone, and those that are in before alone.
func tightened(before, after policy.Effective, family policy.Key) (more, less []string) {
	was, is := before.Members(family), after.Members(family)
	for name, v := range is {
		if w, decided := was[name]; v == policy.Tight && (!decided || w != policy.Tight) {
			more = append(more, name)
		}
	}
	for name, v := range was {
		if w, decided := is[name]; v == policy.Tight && (!decided || w != policy.Tight) {
			less = append(less, name)
		}
	}
	slices.Sort(more)
	slices.Sort(less)
	return more, less
}

// warn tells of processes that a cover does not hold.
func (l filesLever) warn(c *container, paths []string) {
	if len(paths) == 0 {
		return
	}
	standing := mounts.Standing(c.pids(), paths)
	if len(standing) == 0 {
		return
	}
	const most = 5
	if n := len(standing) - most; n > 0 {
		standing = append(standing[:most], fmt.Sprintf("and %d more", n))
	}
	l.s.reporter.event(api.Event{
		Time: time.Now(), ID: c.id, Run: c.current().Facts.Run, Kind: api.EventDegraded,
		Message: "files: working directories are below a path that has been covered, where relative paths go on as before: " + strings.Join(standing, ", "),
	})
}

// pids are the processes of the container's cgroup, without those in cgroups it made itself.
func (c *container) pids() []int {
	for _, controller := range []string{"pids", "memory", ""} {
		dir, ok := c.cgroup[controller]
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		var out []int
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				out = append(out, pid)
			}
		}
		return out
	}
	return nil
}

// survey notes what runc has mounted over the paths of a policy, see mounts.Survey.
func (c *container) survey() (err error) {
	_, masked := tightened(c.decision.Effective, policy.Effective{}, policy.KeyMaskedPaths)
	_, readonly := tightened(c.decision.Effective, policy.Effective{}, policy.KeyReadonlyPaths)
	c.files, err = mounts.Survey(c.pid, masked, readonly)
	return err
}

func namespaceOf(spec *specs.Spec, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	if spec.Linux == nil {
		return nil
	}
	for i := range spec.Linux.Namespaces {
		if ns := &spec.Linux.Namespaces[i]; ns.Type == t {
			return ns
		}
	}
	return nil
}
