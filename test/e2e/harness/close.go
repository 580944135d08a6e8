package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// teardownTimeout bounds Close as a whole.
const teardownTimeout = 2 * time.Minute

// Close deletes all containers, ends Forefend's daemons and containerd, and removes everything they made. It returns
// an error when something did not go in order: a container that could not be deleted, or anything that was left
// behind (named in the error, and removed by force). It may be called again.
func (e *Env) Close() error {
	if e.Dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	o := e.owner()
	failed := []error{e.removePods(ctx), e.removeContainers(ctx)}
	failed = append(failed, o.endDaemons(ctx))
	failed = append(failed, e.stopContainerd(unix.SIGTERM))
	left, err := o.settled(ctx)
	failed = append(failed, err)
	if len(left) > 0 {
		failed = append(failed, fmt.Errorf("left behind:\n  %s", strings.Join(left, "\n  ")))
	}
	failed = append(failed, o.remove(ctx))
	if e.network != nil {
		failed = append(failed, e.network.Close())
	}
	_ = e.lock.Close()
	e.Dir = ""
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("harness: close: %w", err)
	}
	return nil
}

// settled is Leaks when nothing at all is expected to be there any more.
func (o owner) settled(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		left, err := o.leaks(func(process) bool { return false })
		if err != nil || len(left) == 0 || !pause(ctx) {
			return left, err
		}
	}
}

// endDaemons asks Forefend's daemons to end, the node daemon before the tunnels it uses, and removes the cgroups they
// lived in: no process can remove its own.
func (o owner) endDaemons(ctx context.Context) error {
	var failed []error
	for _, word := range []string{"daemon", "tunneld"} {
		found, err := o.owned()
		failed = append(failed, err)
		for _, p := range found {
			if p.is("forefend", word) {
				failed = append(failed, o.endDaemon(ctx, p))
			}
		}
	}
	return errors.Join(failed...)
}

func (o owner) endDaemon(ctx context.Context, p process) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for sig := unix.SIGTERM; ; sig = 0 { // 0 asks only whether it is still there
		if err := unix.Kill(p.pid, sig); errors.Is(err, unix.ESRCH) || gone(p.pid) {
			break
		}
		if !pause(ctx) {
			_ = unix.Kill(p.pid, unix.SIGKILL)
			return fmt.Errorf("%v did not end within %s of SIGTERM", p, stopTimeout)
		}
	}
	return o.removeCgroups(p.cgroups)
}

// gone tells whether a process has ended, waited for or not.
func gone(pid int) bool {
	p, err := readProcess(pid)
	return err != nil || p.zombie
}

// removeCgroups removes those of paths that are new since the environment began and empty now.
func (o owner) removeCgroups(paths []string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	return eachCgroup(all, func(hierarchy, path string) {
		if slices.Contains(paths, path) && o.before.cgroups != nil && !o.before.cgroups[path] {
			_ = unix.Rmdir(hierarchy + path) // somebody else may live in it still
		}
	})
}

// remove removes by force whatever there is of this owner. It needs no memory of how things came to be.
func (o owner) remove(ctx context.Context) error {
	failed := []error{killAll(ctx, o.owned)}
	points, err := o.mountPoints()
	failed = append(failed, err)
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			failed = append(failed, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	failed = append(failed, o.removeOwnCgroups(ctx))
	for _, path := range o.defaultSockets() {
		_ = os.Remove(path)
	}
	for _, path := range o.criStates() {
		failed = append(failed, os.RemoveAll(path))
	}
	if o.namespace != "" {
		failed = append(failed, os.RemoveAll(filepath.Join(runcRoot, o.namespace)))
	}
	// Only once nothing is mounted below: RemoveAll would go through a mount.
	if points, err := o.mountPoints(); err != nil || len(points) > 0 {
		return errors.Join(append(failed, err, fmt.Errorf("not removing %s: still mounted: %v", o.dir, points))...)
	}
	return errors.Join(append(failed, os.RemoveAll(o.dir))...)
}

// removeOwnCgroups removes the environment's cgroups; one whose last process is only just gone stays busy a little.
func (o owner) removeOwnCgroups(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	for {
		dirs, err := o.cgroupDirs()
		if err != nil || len(dirs) == 0 {
			return err
		}
		for _, dir := range dirs {
			_ = unix.Rmdir(dir)
		}
		if !pause(ctx) {
			return fmt.Errorf("cgroups that cannot be removed: %v", dirs)
		}
	}
}
