package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
)

// Mode is how this machine mounts its cgroups.
type Mode string

// The modes. Hybrid is v1 for the controllers with a v2 hierarchy beside them.
const (
	V1     Mode = "v1"
	Hybrid Mode = "hybrid"
	V2     Mode = "v2"
)

// CurrentMode returns the machine's mode. It is looked up once.
func CurrentMode() Mode { return currentMode() }

var currentMode = sync.OnceValue(func() Mode {
	switch {
	case cgroups.IsCgroup2UnifiedMode():
		return V2
	case cgroups.IsCgroup2HybridMode():
		return Hybrid
	default:
		return V1
	}
})

// Group is where one container's cgroup is, as directories of this mount
// namespace.
type Group struct {
	Paths   map[string]string // v1 controller ("memory", "name=systemd") to directory
	Unified string            // directory in the v2 hierarchy; empty under pure v1
}

// unifiedKey is the Unified directory in Map; /proc/PID/cgroup names no
// controller for it either.
const unifiedKey = ""

// Map returns the group as one map for a record on disk.
func (g Group) Map() map[string]string {
	m := make(map[string]string, len(g.Paths)+1)
	for controller, dir := range g.Paths {
		m[controller] = dir
	}
	if g.Unified != "" {
		m[unifiedKey] = g.Unified
	}
	return m
}

// FromMap is the inverse of Map.
func FromMap(m map[string]string) Group {
	g := Group{Paths: make(map[string]string, len(m))}
	for controller, dir := range m {
		if controller == unifiedKey {
			g.Unified = dir
			continue
		}
		g.Paths[controller] = dir
	}
	return g
}

// Of returns the group a process is in. The error wraps fs.ErrNotExist when
// there is no such process.
func Of(pid int) (Group, error) {
	paths, err := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return Group{}, fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	mounts, err := hierarchies()
	if err != nil {
		return Group{}, fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	g, err := locate(paths, mounts)
	if err != nil {
		return Group{}, fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	return g, nil
}

// At returns the group at a path below the roots of all hierarchies, where runc puts a container whose
// cgroupsPath is absolute. It need not exist.
func At(path string) (Group, error) {
	mounts, err := hierarchies()
	if err != nil {
		return Group{}, fmt.Errorf("cgroup %s: %w", path, err)
	}
	paths := make(map[string]string, len(mounts))
	for controller := range mounts {
		paths[controller] = path
	}
	g, err := locate(paths, mounts)
	if err != nil {
		return Group{}, fmt.Errorf("cgroup %s: %w", path, err)
	}
	return g, nil
}

// mount is one cgroup hierarchy: root is the group that the mount point shows.
type mount struct{ point, root string }

// hierarchies finds where each controller is mounted, once: cgroup mounts do
// not change while a machine runs.
var hierarchies = sync.OnceValues(func() (map[string]mount, error) {
	found := make(map[string]mount)
	if CurrentMode() == V2 {
		found[unifiedKey] = mount{unifiedMountpoint, "/"}
		return found, nil
	}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return nil, fmt.Errorf("find cgroup mounts: %w", err)
	}
	for _, m := range mounts {
		for _, controller := range m.Subsystems {
			if _, again := found[controller]; !again { // the first is the system's own
				found[controller] = mount{m.Mountpoint, m.Root}
			}
		}
	}
	if CurrentMode() == Hybrid {
		point, err := cgroups.FindCgroupMountpoint("", "")
		if err != nil {
			return nil, fmt.Errorf("find the unified cgroup mount: %w", err)
		}
		found[unifiedKey] = mount{point, "/"}
	}
	return found, nil
})

const unifiedMountpoint = "/sys/fs/cgroup"

// locate turns the paths of /proc/PID/cgroup into directories. Controllers
// that are not mounted are left out.
func locate(paths map[string]string, mounts map[string]mount) (Group, error) {
	g := Group{Paths: make(map[string]string, len(paths))}
	for controller, path := range paths {
		m, ok := mounts[controller]
		if !ok {
			continue
		}
		rel, err := filepath.Rel(m.root, path)
		// The kernel shows "/../…" for groups outside of this cgroup namespace.
		if err != nil || strings.HasPrefix(path, "/..") || rel == ".." || strings.HasPrefix(rel, "../") {
			return Group{}, fmt.Errorf("%s is outside of what %s shows (%s)", path, m.point, m.root)
		}
		dir := filepath.Join(m.point, rel)
		if controller == unifiedKey {
			g.Unified = dir
		} else {
			g.Paths[controller] = dir
		}
	}
	if len(g.Paths) == 0 && g.Unified == "" {
		return Group{}, errors.New("no hierarchy of it is mounted")
	}
	return g, nil
}

// dir returns the directory where a controller's files are, and whether they
// are v1 files. With no such controller in v1 it can only be in the v2 hierarchy.
func (g Group) dir(controller string) (dir string, v1 bool) {
	if dir, ok := g.Paths[controller]; ok {
		return dir, true
	}
	return g.Unified, false
}

// Exists reports whether any directory of the group is still there.
func (g Group) Exists() bool {
	for _, dir := range g.Map() {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// Remove removes the group's directories and the groups inside them. It is no
// error when they are gone; it is one at once when processes are in them, which
// it does not end. Directories that are a hierarchy's root are refused, those of
// controllers that share a hierarchy are removed once.
func (g Group) Remove() error {
	mounts, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for controller, dir := range g.Map() {
		if m, ok := mounts[controller]; !ok || !inside(m.point, dir) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: it is not inside hierarchy %q", dir, controller))
			continue
		}
		if err := remove(dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// PIDs lists the processes in the group and the groups inside it.
func (g Group) PIDs() ([]int, error) {
	dir, _ := g.dir("pids")
	pids, err := cgroups.GetAllPids(dir)
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup %s: %w", dir, err)
	}
	return pids, nil
}

// Free returns the group without the directories in which processes are.
func (g Group) Free() Group {
	paths := g.Map()
	for controller, dir := range paths {
		if pids, err := cgroups.GetAllPids(dir); err == nil && len(pids) > 0 {
			delete(paths, controller)
		}
	}
	return FromMap(paths)
}

// remove looks for processes first: the library tries for a second, with each
// hierarchy, which is right only for what is about to vanish.
func remove(dir string) error {
	pids, err := cgroups.GetAllPids(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("%d processes are in it, the first is %d", len(pids), pids[0])
	}
	return cgroups.RemovePath(dir)
}

// inside reports whether dir is a clean path strictly below point.
func inside(point, dir string) bool {
	return filepath.Clean(dir) == dir && strings.HasPrefix(dir, strings.TrimSuffix(point, "/")+"/")
}

// Self is the group this process was in when it was first asked for.
func Self() (Group, error) { return self() }

var self = sync.OnceValues(func() (Group, error) { return Of(os.Getpid()) })

// UnifiedRoot is where the v2 hierarchy is mounted; empty under pure v1.
func UnifiedRoot() string {
	mounts, err := hierarchies()
	if err != nil {
		return ""
	}
	return mounts[unifiedKey].point
}
