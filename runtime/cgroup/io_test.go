package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/test/root"
)

// aDisk is the number of any disk of this machine.
func aDisk(t *testing.T) string {
	t.Helper()
	all, err := os.ReadDir(blockDevices)
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for _, e := range all {
		if Disk(e.Name()) == nil {
			return e.Name()
		}
		if _, err := os.Stat(filepath.Join(blockDevices, e.Name(), "queue")); err == nil { // partitions have none
			whole++
		}
	}
	if whole > 0 {
		t.Fatalf("none of %d disks is taken for one", whole)
	}
	t.Skip("no disk here")
	return ""
}

func TestThrottleV2(t *testing.T) {
	disk, dir := aDisk(t), t.TempDir()
	file := filepath.Join(dir, "io.max")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g := Group{Unified: dir}
	if err := g.Throttle(disk, IOWrite, 1<<20); err != nil {
		t.Error(err)
	}
	if line, err := os.ReadFile(file); err != nil || string(line) != disk+" wbps=1048576" {
		t.Errorf("wrote %q, %v", line, err)
	}
	kernel := disk + "1 rbps=9 wbps=9\n" + disk + " rbps=max wbps=4096 riops=max wiops=7\n\n"
	if err := os.WriteFile(file, []byte(kernel), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := g.Throttled(disk, IORead)
	w, err2 := g.Throttled(disk, IOWrite)
	none, err3 := g.Throttled("9:99", IOWrite)
	if r != 0 || w != 4096 || none != 0 || errors.Join(err, err2, err3) != nil {
		t.Errorf("read %d, write %d, another %d: %v", r, w, none, errors.Join(err, err2, err3))
	}
	if _, _, line := g.throttle(disk, IORead, 0); line != disk+" rbps=max" {
		t.Errorf("lifts by %q", line)
	}
	// A kernel that takes it and does not do it.
	if err := os.WriteFile(file, []byte(strings.Repeat("8", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Throttle(disk, IORead, 4096); err == nil || !strings.Contains(err.Error(), "the kernel has 0 bytes per second") {
		t.Errorf("what is not in force: %v", err)
	}
}

func TestThrottleRefused(t *testing.T) {
	disk := aDisk(t)
	for name, c := range map[string]struct {
		group Group
		disk  string
		words string
	}{
		"no such disk":       {Group{Unified: t.TempDir()}, "4095:77", "there is no disk 4095:77"},
		"no controller":      {Group{Unified: t.TempDir()}, disk, "has no io.max"},
		"no controller (v1)": {Group{Paths: map[string]string{"blkio": t.TempDir()}}, disk, "has no blkio.throttle.write_bps_device"},
		"no hierarchy":       {Group{Paths: map[string]string{"memory": t.TempDir()}}, disk, "has no io.max"},
	} {
		err := c.group.Throttle(c.disk, IOWrite, 4096)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.group.Throttle(c.disk, IOWrite, 0); err != nil {
			t.Errorf("%s, no limit: %v", name, err)
		}
	}
	gone := Group{Unified: filepath.Join(t.TempDir(), "gone")}
	if err := gone.Throttle(disk, IORead, 4096); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a group that is gone: %v", err)
	}
}

// TestDisk looks numbers up in a tree like the kernel's: a disk with a partition, both listed by links.
func TestDisk(t *testing.T) {
	root := t.TempDir()
	part, list := filepath.Join(root, "block/sda/sda1"), filepath.Join(root, "dev")
	err := errors.Join(os.MkdirAll(part, 0o700), os.Mkdir(list, 0o700),
		os.WriteFile(filepath.Join(root, "block/sda/dev"), []byte("8:0\n"), 0o600), os.WriteFile(filepath.Join(part, "partition"), []byte("1\n"), 0o600),
		os.Symlink("../block/sda", filepath.Join(list, "8:0")), os.Symlink("../block/sda/sda1", filepath.Join(list, "8:1")))
	if err != nil {
		t.Fatal(err)
	}
	if err := diskIn(list, "8:0"); err != nil {
		t.Error(err)
	}
	for numbers, words := range map[string]string{"8:1": "8:1 is a partition, and limits hold for whole disks: name its disk, 8:0", "8:2": "there is no disk 8:2"} {
		if err := diskIn(list, numbers); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %q", numbers, err, words)
		}
	}
}

// TestRootThrottle moves a rate up and down in a cgroup of this machine.
func TestRootThrottle(t *testing.T) {
	root.Test(t)
	disk := aDisk(t)
	_, g := newGroup(t)
	if dir, _ := g.dir("blkio"); os.MkdirAll(dir, 0o755) != nil {
		t.Fatalf("cannot make %s", dir)
	}
	for _, rate := range []int64{1 << 20, 4 << 20, 4096, 0, 0} {
		for _, d := range []Direction{IORead, IOWrite} {
			if err := g.Throttle(disk, d, rate); err != nil {
				t.Fatal(err)
			}
			other := IORead
			if d == IORead {
				other = IOWrite
			}
			if n, err := g.Throttled(disk, d); err != nil || n != rate {
				t.Errorf("%s %d: has %d, %v", d.verb, rate, n, err)
			}
			if _, err := g.Throttled(disk, other); err != nil {
				t.Error(err)
			}
		}
	}
}
