package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// baseline is what was on the machine before an environment began.
type baseline struct {
	cgroups map[string]bool // paths below any hierarchy's root
	nsfs    map[string]bool // mount points that keep a namespace alive
}

func takeBaseline() (baseline, error) {
	b := baseline{cgroups: make(map[string]bool), nsfs: make(map[string]bool)}
	mounts, err := mounts()
	if err != nil {
		return b, err
	}
	for _, m := range mounts {
		if m.kind == "nsfs" {
			b.nsfs[m.point] = true
		}
	}
	return b, eachCgroup(mounts, func(_, path string) { b.cgroups[path] = true })
}

// mount is one line of mountinfo.
type mount struct {
	point string
	kind  string
}

// mounts lists the mounts of this mount namespace in the order they were made.
func mounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text)), nil
}

func parseMounts(text string) []mount {
	var all []mount
	for line := range strings.Lines(text) {
		front, back, ok := strings.Cut(line, " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if ok && len(f) >= 5 && len(b) >= 1 {
			all = append(all, mount{point: unescape(f[4]), kind: b[0]})
		}
	}
	return all
}

// unescape resolves mountinfo's octal escapes for white space and the backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// eachCgroup calls f with every cgroup of every hierarchy: the mount point, and the path below it.
func eachCgroup(mounts []mount, f func(hierarchy, path string)) error {
	for _, m := range mounts {
		if m.kind != "cgroup" && m.kind != "cgroup2" {
			continue
		}
		err := filepath.WalkDir(m.point, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone meanwhile
			}
			if err != nil {
				return err
			}
			if d.IsDir() {
				f(m.point, strings.TrimPrefix(path, m.point))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("list cgroups: %w", err)
		}
	}
	return nil
}

// cgroupDirs lists the directories of this environment's cgroups, children before parents.
func (o owner) cgroupDirs() ([]string, error) {
	mounts, err := mounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	err = eachCgroup(mounts, func(hierarchy, path string) {
		if o.ownsCgroup(path) {
			dirs = append(dirs, hierarchy+path)
		}
	})
	slices.Sort(dirs)
	slices.Reverse(dirs)
	return dirs, err
}

// mountPoints lists the mounts under the environment's directory, and new ones that keep a namespace alive and whose
// name says that it is ours; the youngest first.
func (o owner) mountPoints() ([]string, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range all {
		pinned := m.kind == "nsfs" && !o.before.nsfs[m.point] && slices.Contains(o.ids, filepath.Base(m.point))
		if o.mentions(m.point) || pinned {
			points = append(points, m.point)
		}
	}
	slices.Reverse(points)
	return points, nil
}

// listeners returns the inodes of TCP sockets that listen in this network namespace, with their local port.
func listeners() (map[string]string, error) {
	found := make(map[string]string)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			const listen = "0A"
			if len(f) < 10 || f[3] != listen {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err == nil {
				found[f[9]] = strconv.FormatUint(port, 10)
			}
		}
	}
	return found, nil
}

// descriptors returns what the open descriptors of a process point at.
func descriptors(pid int) []string {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, _ := os.ReadDir(dir) // it may have ended
	var targets []string
	for _, entry := range entries {
		if t, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			targets = append(targets, t)
		}
	}
	return targets
}
