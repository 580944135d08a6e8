package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Direction is reading from disks or writing to them.
type Direction struct {
	verb string
	file string // of cgroup v1: a line a disk, "8:0 1048576"
	word string // in cgroup v2's io.max: "8:0 rbps=1048576 wbps=max riops=max wiops=max"
}

// The directions.
var (
	IORead  = Direction{"read", "blkio.throttle.read_bps_device", "rbps"}
	IOWrite = Direction{"write", "blkio.throttle.write_bps_device", "wbps"}
)

// Throttle holds the group to rate bytes per second in one direction of a disk, 0 to none, and reads back that it does. disk is the
// disk's numbers, "8:0". What counts is what reaches the disk: under cgroup v1 the kernel writes the page cache back in nobody's name.
//
// The error wraps errdefs.ErrFailedPrecondition where no such disk is there or the group has no such limit, and fs.ErrNotExist
// when the group is gone. That what is not there has no limit is no error.
func (g Group) Throttle(disk string, d Direction, rate int64) error {
	if err := Disk(disk); err != nil {
		if rate == 0 {
			return nil
		}
		return err
	}
	dir, file, line := g.throttle(disk, d, rate)
	err := fs.ErrNotExist
	var f *os.File
	if dir != "" {
		f, err = os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && g.Exists():
		if rate == 0 {
			return nil
		}
		return fmt.Errorf("what the container may %s cannot be limited: its cgroup has no %s, which the kernel's block I/O controller makes (blkio in cgroup v1, io in v2): %w",
			d.verb, file, errdefs.ErrFailedPrecondition)
	case err != nil:
		return fmt.Errorf("limit what a container may %s: %w", d.verb, err)
	}
	_, err = f.WriteString(line)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("limit what a container may %s to %q: %w", d.verb, line, err)
	}
	has, err := g.Throttled(disk, d)
	if err == nil && has != rate {
		err = fmt.Errorf("the kernel has %d bytes per second of disk %s, not %d", has, disk, rate)
	}
	if err != nil {
		return fmt.Errorf("limit what a container may %s: %w", d.verb, err)
	}
	return nil
}

// throttle is where the limit of a direction stands, and the line that sets it. dir is empty where no hierarchy can have it.
func (g Group) throttle(disk string, d Direction, rate int64) (dir, file, line string) {
	dir, v1 := g.dir("blkio")
	n := strconv.FormatInt(rate, 10)
	switch {
	case v1:
		return dir, d.file, disk + " " + n
	case rate == 0:
		n = "max"
	}
	return dir, fileIOMax, disk + " " + d.word + "=" + n
}

const fileIOMax = "io.max"

// Throttled reads back to how many bytes per second the group is held, 0 where it is not. The error wraps fs.ErrNotExist where
// there is no such limit.
func (g Group) Throttled(disk string, d Direction) (int64, error) {
	dir, file, _ := g.throttle(disk, d, 0)
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, fmt.Errorf("read back a limit: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != disk {
			continue
		}
		for _, w := range words[1:] {
			n, ours := w, true
			if file == fileIOMax {
				n, ours = strings.CutPrefix(w, d.word+"=")
			}
			if rate := number([]byte(n)); ours && rate != math.MaxInt64 {
				return rate, nil
			}
		}
	}
	return 0, nil
}

// blockDevices is where the kernel lists disks and their partitions by number.
const blockDevices = "/sys/dev/block"

// Disk reports, by an error that wraps errdefs.ErrFailedPrecondition, that no disk of this machine has these numbers, or that it is a
// partition: the kernel counts for whole disks.
func Disk(numbers string) error { return diskIn(blockDevices, numbers) }

func diskIn(list, numbers string) error {
	dir := filepath.Join(list, numbers)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("there is no disk %s on this machine (lsblk shows those that there are): %w", numbers, errdefs.ErrFailedPrecondition)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err != nil {
		return nil
	}
	whole := "its disk"
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		if n, err := os.ReadFile(filepath.Join(filepath.Dir(real), "dev")); err == nil {
			whole += ", " + strings.TrimSpace(string(n))
		}
	}
	return fmt.Errorf("%s is a partition, and limits hold for whole disks: name %s: %w", numbers, whole, errdefs.ErrFailedPrecondition)
}
