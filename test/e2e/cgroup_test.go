package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// limitFiles says where the kernel keeps a limit: controller and file on cgroup v1, file on v2.
var limitFiles = map[string][3]string{
	"memory":      {"memory", "memory.limit_in_bytes", "memory.max"},
	"memory.soft": {"memory", "memory.soft_limit_in_bytes", "memory.high"},
	"memory.used": {"memory", "memory.usage_in_bytes", "memory.current"},
	"pids":        {"pids", "pids.max", "pids.max"},
	"cpu.quota":   {"cpu", "cpu.cfs_quota_us", "cpu.max"},
	"cpu.period":  {"cpu", "cpu.cfs_period_us", "cpu.max"},
}

// limit reads one limit of a running container from the kernel; 0 is none.
func (h *host) limit(t testing.TB, id, what string) int64 {
	t.Helper()
	pid := int(h.task(t, id).Pid())
	where := limitFiles[what]
	dir, version := cgroupOf(t, pid, where[0])
	file := where[1]
	if version == 2 {
		file = where[2]
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(text))
	word := words[0]
	if what == "cpu.period" && version == 2 {
		word = words[1]
	}
	n, err := strconv.ParseInt(word, 10, 64)
	const unlimited = 1 << 60 // v1 says so with the largest multiple of a page
	if err != nil || n < 0 || n >= unlimited {
		return 0
	}
	return n
}

// cgroupVersion is the version of the hierarchy that limits a running container's memory.
func (h *host) cgroupVersion(t testing.TB, id string) int {
	t.Helper()
	_, version := cgroupOf(t, int(h.task(t, id).Pid()), "memory")
	return version
}

// cgroupOf finds the directory of a process's cgroup for a controller.
func cgroupOf(t testing.TB, pid int, controller string) (dir string, version int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	unified := ""
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case f[1] == "":
			unified = f[2]
		case strings.Contains(","+f[1]+",", ","+controller+","):
			return filepath.Join("/sys/fs/cgroup", f[1], f[2]), 1
		}
	}
	return filepath.Join("/sys/fs/cgroup", unified), 2
}
