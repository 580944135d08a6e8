package doctor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// wanted are the controllers a container's limits and usage need.
var wanted = []string{"memory", "cpu", "pids"}

// cgroupMode tells how the hierarchies are mounted, and where the unified one is ("" when nowhere).
func cgroupMode() (mode, unified string) {
	kind := func(path string) int64 {
		var s unix.Statfs_t
		if unix.Statfs(path, &s) != nil {
			return 0
		}
		return int64(s.Type)
	}
	switch {
	case kind(cgroupRoot) == unix.CGROUP2_SUPER_MAGIC:
		return "v2", cgroupRoot
	case kind(filepath.Join(cgroupRoot, "unified")) == unix.CGROUP2_SUPER_MAGIC:
		return "hybrid v1", filepath.Join(cgroupRoot, "unified")
	case kind(cgroupRoot) == unix.TMPFS_MAGIC:
		return "v1", ""
	}
	return "", ""
}

func cgroupRows(context.Context) []Row {
	mode, unified := cgroupMode()
	if mode == "" {
		return cgroupReport("", nil, nil)
	}
	have, err := controllers(mode, unified)
	return cgroupReport(mode, have, err)
}

func cgroupReport(mode string, have []string, err error) []Row {
	const ungoverned = "limits cannot be set and usage cannot be read: containers do not start"
	if mode == "" {
		return []Row{missing("cgroups", "nothing is mounted on "+cgroupRoot, ungoverned, "mount cgroup2 there")}
	}
	row := ok("cgroups", mode)
	if mode != "v2" {
		row = degraded("cgroups", mode, "soft memory limits are reclaim hints, not memory.high",
			"boot with systemd.unified_cgroup_hierarchy=1 for v2")
	}
	if err != nil {
		return []Row{row, missing("cgroup controllers", err.Error(), ungoverned, "mount the controllers, or cgroup2")}
	}
	without := slices.DeleteFunc(slices.Clone(wanted), func(c string) bool { return slices.Contains(have, c) })
	if len(without) > 0 {
		return []Row{row, missing("cgroup controllers", "without "+strings.Join(without, ", "),
			"limits of that kind cannot be set, and its usage is not learned", "enable them on the kernel command line (cgroup_enable=memory)")}
	}
	return []Row{row, ok("cgroup controllers", strings.Join(wanted, ", "))}
}

func controllers(mode, unified string) ([]string, error) {
	if mode == "v2" {
		b, err := os.ReadFile(filepath.Join(unified, "cgroup.controllers"))
		return strings.Fields(string(b)), err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var have []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if _, after, ok := strings.Cut(s.Text(), " - cgroup "); ok {
			fields := strings.Fields(after)
			have = append(have, strings.Split(fields[len(fields)-1], ",")...)
		}
	}
	if len(have) == 0 {
		return nil, fmt.Errorf("no controller is mounted")
	}
	return have, nil
}
