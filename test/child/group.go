package child

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long processes may take to be gone from a cgroup.
const patience = time.Minute

// Group makes a cgroup of the v2 hierarchy, one level below its root, that is gone after the test. id is its inode number.
func Group(t testing.TB, name string) (dir string, id uint64) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir := filepath.Join(root, fmt.Sprintf("forefend-test-%d-%s", os.Getpid(), name))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeSoon(t, dir) })
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			t.Fatal(err)
		}
		return dir, st.Ino
	}
	t.Fatal("no cgroup v2 hierarchy is mounted")
	return "", 0
}

// removeSoon removes a cgroup whose processes are about to be gone.
func removeSoon(t testing.TB, dir string) {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Errorf("cgroup %s: %v", dir, err)
			return
		}
	}
}
