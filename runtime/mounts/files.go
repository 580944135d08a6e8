package mounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/runtime/record"
)

// Files is what runc and this package have laid over the files of one container. Its methods are not for several
// goroutines at once.
type Files struct {
	pid    int
	start  uint64
	layers map[place]layer // for who has set busy
	busy   atomic.Bool     // a change is under way, or was given up and has not come back yet
}

// place is a path of the policy, hidden or protected.
type place struct {
	what cover
	path string
}

type cover uint8

const (
	hidden    cover = iota // by an empty file or directory over it
	protected              // read-only
)

// layer is the mount that makes a place what it is.
type layer struct {
	id      uint64
	inPlace bool // a mount that was there anyway and has been made read-only, not one that was laid over the path
}

// Survey notes the mounts that runc has laid over the paths of a new container. Call it before the container's first
// instruction: later nobody could tell these mounts from others. It walks no path. A path that did not exist has no mount.
func Survey(pid int, masked, readonly []string) (*Files, error) {
	start, err := record.Start(pid)
	if err != nil {
		return nil, err
	}
	f := &Files{pid: pid, start: start, layers: make(map[place]layer)}
	if len(masked)+len(readonly) == 0 {
		return f, nil
	}
	info, err := os.Open("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer info.Close()
	table, err := readTable(info)
	if err != nil {
		return nil, err
	}
	f.note(table, masked, readonly)
	return f, nil
}

// note finds the topmost mount at each path. runc covers what is read-only first and what is hidden last.
func (f *Files) note(table []mount, masked, readonly []string) {
	at := make(map[string][]uint64)
	for _, m := range table {
		at[m.point] = append(at[m.point], m.id)
	}
	for _, p := range masked {
		if ids := at[p]; len(ids) > 0 {
			f.layers[place{hidden, p}] = layer{id: ids[len(ids)-1]}
			at[p] = ids[:len(ids)-1]
		}
	}
	for _, p := range readonly {
		if ids := at[p]; len(ids) > 0 {
			f.layers[place{protected, p}] = layer{id: ids[len(ids)-1]}
		}
	}
}

// Change is what is to become of a container's files. Paths are absolute and clean.
type Change struct {
	Mask    []string // to be hidden
	Unmask  []string
	Protect []string // to be read-only
	Release []string // to be writable again
	Root    *bool    // the root file system: read-only or not; nil: as it is
}

func (c Change) empty() bool {
	return len(c.Mask)+len(c.Unmask)+len(c.Protect)+len(c.Release) == 0 && c.Root == nil
}

// inverse is the change that takes c back.
func (c Change) inverse() Change {
	i := Change{Mask: c.Unmask, Unmask: c.Mask, Protect: c.Release, Release: c.Protect}
	if c.Root != nil {
		i.Root = new(bool)
		*i.Root = !*c.Root
	}
	return i
}

// errGivenUp is what a thread finds that nobody waits for any more.
var errGivenUp = errors.New("given up")

// Apply makes a change, whole or not at all, and reads it back. It returns how to take it back.
//
// Errors wrap errdefs.ErrFailedPrecondition where nothing was tried: a path that does not exist, or lies on a mount shared
// with others; unix.EBUSY where a file is open for writing; context.DeadlineExceeded where the container's file system did not answer.
func (f *Files) Apply(ctx context.Context, c Change) (undo func(context.Context) error, err error) {
	if c.empty() {
		return nil, nil
	}
	if !f.busy.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("an earlier change hangs in the container's file system: %w", errdefs.ErrFailedPrecondition)
	}
	if now, err := record.Start(f.pid); err != nil || now != f.start {
		f.busy.Store(false)
		return nil, fmt.Errorf("the container's first process has ended: %w", errdefs.ErrFailedPrecondition)
	}
	t := &transition{pid: f.pid, change: c, before: f.layers, after: make(map[place]layer, len(f.layers))}
	for p, l := range f.layers {
		t.after[p] = l
	}
	done := make(chan error, 1)
	enter.Thread(func() bool {
		fit, err := t.run()
		f.layers = t.after // also after an error: what was taken away and put back is another mount
		f.busy.Store(false)
		done <- err
		return fit
	})
	select {
	case err = <-done:
	case <-ctx.Done():
		if t.giveUp() {
			return nil, fmt.Errorf("a file system of the container does not answer; what was done is undone as soon as it does: %w", context.Cause(ctx))
		}
		err = <-done
	}
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := f.Apply(ctx, c.inverse())
		return err
	}, nil
}

// UnsupportedError says what the kernel lacks. It is errdefs.ErrFailedPrecondition.
type UnsupportedError struct {
	Feature string // the system call
	Version string // of the first kernel that has it
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the kernel has no %s: Linux %s is the first that does", e.Feature, e.Version)
}

// Unwrap makes it a failed precondition.
func (*UnsupportedError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// lacking turns the kernel's answer to a call that it does not know into an UnsupportedError.
func lacking(feature, version string, err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return &UnsupportedError{feature, version}
	}
	return err
}
