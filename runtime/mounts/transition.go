package mounts

import (
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// transition is one change under way on its thread.
type transition struct {
	pid           int
	change        Change
	before, after map[place]layer
	*view

	targets []target       // what is to be hidden, then what is to be read-only
	undo    []func() error // the last first

	mu    sync.Mutex
	given bool // nobody waits any more; guarded by mu
	ended bool // the outcome stands; guarded by mu
}

// giveUp makes the thread undo all it has done. It reports false when the thread is through already.
func (t *transition) giveUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.given = !t.ended
	return t.given
}

// goOn fails once the change was given up.
func (t *transition) goOn() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.given {
		return errGivenUp
	}
	return nil
}

// end fails if the change was given up, and else makes that impossible.
func (t *transition) end() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = !t.given
	if t.given {
		return errGivenUp
	}
	return nil
}

// run makes the change, on one of package enter's threads, and reports whether it is fit for another job.
func (t *transition) run() (fit bool, err error) {
	t.view, err = inside(t.pid)
	if err == nil {
		err = t.make()
	}
	return t.view.leave(), err
}

func (t *transition) make() (err error) {
	defer func() {
		for _, target := range t.targets {
			unix.Close(target.fd)
		}
	}()
	// What is uncovered first is what the others find.
	for _, step := range []func() error{t.uncover, t.find, t.apply, t.verify, t.end} {
		if err = step(); err != nil {
			break
		}
	}
	if err == nil {
		return nil
	}
	for i := len(t.undo) - 1; i >= 0; i-- {
		if uerr := t.undo[i](); uerr != nil {
			err = errors.Join(err, fmt.Errorf("not undone: %w", uerr))
		}
	}
	return err
}

// find opens every path that is to be covered.
func (t *transition) find() error {
	if err := t.read(); err != nil {
		return err
	}
	for _, p := range append(append([]string(nil), t.change.Mask...), t.change.Protect...) {
		target, err := t.target(p, 0)
		switch {
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
			return fmt.Errorf("%s does not exist in the container, so nothing can be mounted over it: %w", p, errdefs.ErrFailedPrecondition)
		case errors.Is(err, unix.ELOOP):
			return fmt.Errorf("%s leads through a magic or endless link: %w", p, errdefs.ErrFailedPrecondition)
		case err != nil:
			return err
		}
		t.targets = append(t.targets, target)
		if m, ok := find(t.table, target.mount); ok && m.shared {
			return fmt.Errorf("%s is on a mount shared with others (%s), where a mount would appear, too: %w", p, m.point, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// apply covers what is to be covered.
func (t *transition) apply() error {
	masks := len(t.change.Mask)
	var steps []func() error
	if t.change.Root != nil {
		steps = append(steps, func() error { return t.root(*t.change.Root) })
	}
	for i, p := range t.change.Protect {
		steps = append(steps, func() error { return t.protect(place{protected, p}, t.targets[masks+i]) })
	}
	for i, p := range t.change.Mask {
		steps = append(steps, func() error { return t.mask(place{hidden, p}, t.targets[i]) })
	}
	for _, step := range steps {
		if err := t.goOn(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// uncover takes away what is to be taken away. Covers of the same directory under two names lie on one another, so it goes
// round as long as that gets on.
func (t *transition) uncover() error {
	var left []place
	for _, p := range t.change.Release {
		left = append(left, place{protected, p})
	}
	for _, p := range t.change.Unmask {
		left = append(left, place{hidden, p})
	}
	for len(left) > 0 {
		var next []place
		var first error
		for _, p := range left {
			if err := t.goOn(); err != nil {
				return err
			}
			off := t.unmask
			if p.what == protected {
				off = t.release
			}
			if err := off(p); err != nil {
				next = append(next, p)
				if first == nil {
					first = err
				}
			}
		}
		if len(next) == len(left) {
			return first
		}
		left = next
	}
	return nil
}

// put notes the layer of a place, and how to take it away.
func (t *transition) put(p place, l layer, undo func() error) {
	was, had := t.after[p]
	t.after[p] = l
	t.undo = append(t.undo, func() error {
		if err := undo(); err != nil && !errors.Is(err, errGone) {
			return err
		}
		delete(t.after, p)
		if had {
			t.after[p] = was
		}
		return nil
	})
}

// take notes that a place has no layer any more, and how to put one there again.
func (t *transition) take(p place, undo func() error) {
	delete(t.after, p)
	if undo != nil {
		t.undo = append(t.undo, undo)
	}
}

// verify reads back what the kernel has.
func (t *transition) verify() error {
	if err := t.read(); err != nil {
		return err
	}
	for p, l := range t.after {
		if was, same := t.before[p]; same && was == l {
			continue
		}
		m, ok := find(t.table, l.id)
		if !ok || !m.readonly && p.what == protected {
			return fmt.Errorf("%s: the mount is not what was asked for; somebody in the container changes mounts as well", p.path)
		}
	}
	for p, l := range t.before {
		if _, kept := t.after[p]; kept || !l.inPlace { // the number of a mount that is gone may be another's by now
			continue
		}
		if m, ok := find(t.table, l.id); ok && m.readonly && !t.shared(p, l.id) {
			return fmt.Errorf("%s: its mount is still read-only", p.path)
		}
	}
	return nil
}
