package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Floor is the least memory limit that can be set on the group now without the
// kernel killing something in it: what is in use, without the file cache and the
// kernel memory that can be given up and without what there is swap for. It is a
// snapshot; processes go on.
//
// On cgroup v1 it is zero: there the kernel itself refuses a limit that it cannot
// reach, where v2's takes any and kills. The error wraps fs.ErrNotExist when the
// group is gone.
func (g Group) Floor() (int64, error) {
	dir, v1 := g.dir("memory")
	if v1 || dir == "" {
		return 0, nil
	}
	files := make(map[string][]byte)
	for _, name := range []string{"memory.current", "memory.stat", "memory.swap.max", "memory.swap.current"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case err == nil:
			files[name] = data
		// Without swap in the kernel there are no files for it.
		case errors.Is(err, fs.ErrNotExist) && name != "memory.current":
		default:
			return 0, fmt.Errorf("read what memory a cgroup cannot give up: %w", err)
		}
	}
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil {
		return 0, fmt.Errorf("how much swap space is free: %w", err)
	}
	return floor(files, int64(machine.Freeswap)*int64(machine.Unit)), nil
}

// floor is Floor of the content of the group's files.
func floor(files map[string][]byte, swapFree int64) int64 {
	n := number(files["memory.current"])
	for _, name := range []string{"inactive_file", "active_file", "slab_reclaimable"} {
		n -= field(files["memory.stat"], name)
	}
	if limit, ok := files["memory.swap.max"]; ok {
		n -= max(0, min(number(limit)-number(files["memory.swap.current"]), swapFree))
	}
	return max(0, n)
}
