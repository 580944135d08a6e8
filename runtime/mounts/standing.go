package mounts

import (
	"os"
	"strconv"
	"strings"
)

// maxStanding bounds the processes that are looked at.
const maxStanding = 256

// Standing lists those of some processes, as "redis-server (12) in /data", whose working directory was below one of the paths
// before a cover was laid over it: under the cover, relative paths lead to what is hidden or read-only for all others.
// Where a process stands is a claim of the container's; it is good enough for a warning.
func Standing(pids []int, paths []string) []string {
	var out []string
	for _, pid := range pids[:min(len(pids), maxStanding)] {
		dir := "/proc/" + strconv.Itoa(pid)
		cwd, err := os.Readlink(dir + "/cwd")
		if err != nil {
			continue
		}
		for _, p := range paths {
			if !under(cwd, p) {
				continue
			}
			comm, _ := os.ReadFile(dir + "/comm")
			out = append(out, strings.TrimSpace(string(comm))+" ("+strconv.Itoa(pid)+") in "+cwd)
			break
		}
	}
	return out
}

// under reports whether path is dir or below it.
func under(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
