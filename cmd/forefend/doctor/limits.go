package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// pressure looks for pressure stall information below dir, /proc/pressure.
func pressure(dir string) Row {
	const feature = "pressure (PSI)"
	if _, err := os.ReadFile(filepath.Join(dir, "memory")); err != nil {
		return degraded(feature, "not offered: "+err.Error(), "nothing in this version; the node's load will be judged without it",
			"boot with psi=1, a kernel with CONFIG_PSI")
	}
	return ok(feature, "cpu, io and memory")
}

// enoughInotify is how many containers a node may have at least: each needs an instance for its OOM events (cgroup v2) and,
// when it reads standard input, one more.
const enoughInotify = 512

// inotify reads the limits below dir, /proc/sys/fs/inotify.
func inotify(dir string) Row {
	const feature = "inotify instances"
	text, err := os.ReadFile(filepath.Join(dir, "max_user_instances"))
	if err != nil {
		return degraded(feature, err.Error(), "an early end of standard input and, on cgroup v2, OOM kills go unnoticed", "a kernel with CONFIG_INOTIFY_USER")
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < enoughInotify {
		return degraded(feature, fmt.Sprintf("%s for a user", strings.TrimSpace(string(text))),
			"from as many containers on, OOM kills (cgroup v2) and an early end of standard input go unnoticed",
			fmt.Sprintf("sysctl fs.inotify.max_user_instances=%d, or more", 2*enoughInotify))
	}
	return ok(feature, fmt.Sprintf("%d for a user", n))
}

// enoughFiles is what a daemon needs for a node full of shims, each with a connection.
const enoughFiles = 4096

// OpenFiles looks at the limit of a process, the daemon, on open files. proc is /proc.
func OpenFiles(proc string, pid int) []Row {
	const feature = "daemon's open files"
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "limits"))
	if err != nil {
		return nil // it has ended meanwhile, or is not ours to look at
	}
	for line := range strings.Lines(string(text)) {
		rest, isFiles := strings.CutPrefix(line, "Max open files")
		fields := strings.Fields(rest)
		if !isFiles || len(fields) < 2 {
			continue
		}
		if n, err := strconv.Atoi(fields[0]); err == nil && n < enoughFiles {
			return []Row{degraded(feature, fmt.Sprintf("at most %d", n), "from about as many containers on, shims find the daemon busy and decide alone",
				"LimitNOFILE=65536 for containerd or for the service, then: forefend daemon --detach --takeover")}
		}
	}
	return nil
}
