package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// lockName is the file that the process of a living environment holds locked. The kernel releases the lock however
// the process ends.
const lockName = "harness.lock"

var dirName = regexp.MustCompile(`^` + dirPrefix + `[0-9]+$`)

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sweep removes environments whose process died without closing them, a test that ran into its timeout for example.
func sweep() error {
	entries, err := os.ReadDir(tempDir())
	if err != nil {
		return err
	}
	var failed []error
	for _, entry := range entries {
		dir := filepath.Join(tempDir(), entry.Name())
		if !entry.IsDir() || !dirName.MatchString(entry.Name()) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
			continue // not an environment, or one that is just being made
		}
		lock, err := lockDir(dir)
		if err != nil {
			continue // somebody's, alive
		}
		if err := abandoned(dir).sweepAway(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", dir, err))
		}
		_ = lock.Close()
	}
	return errors.Join(failed...)
}

// abandoned is the owner of what an environment in dir left. Its containers are known from their bundles.
func abandoned(dir string) owner {
	o := owner{dir: dir, namespace: filepath.Base(dir)}
	bundles, _ := filepath.Glob(filepath.Join(dir, "state", "io.containerd.runtime.v2.task", "*", "*"))
	for _, b := range bundles {
		o.ids = append(o.ids, filepath.Base(b))
		o.spaces = append(o.spaces, filepath.Base(filepath.Dir(b)))
	}
	return o
}

func (o owner) sweepAway() error {
	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	// A frozen container cannot be killed on cgroup v1.
	dirs, err := o.cgroupDirs()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		thaw(dir)
	}
	return o.remove(ctx)
}

func thaw(cgroup string) {
	for file, value := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
		path := filepath.Join(cgroup, file)
		if _, err := os.Stat(path); err == nil {
			_ = os.WriteFile(path, []byte(value), 0)
		}
	}
}
