package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/cgroups"
)

// Join moves a process into the cgroup name, for example "forefend/daemon", of
// every hierarchy, making it where missing, so that the process is neither
// charged to nor ended with whoever started it. It tries all hierarchies and
// returns all errors; the process stays where it was in those that failed.
func Join(name string, pid int) error {
	if !filepath.IsLocal(name) || name == "." {
		return fmt.Errorf("join cgroup %q: not a path below a hierarchy's root", name)
	}
	mounts, err := hierarchies()
	if err != nil {
		return fmt.Errorf("join cgroup %s: %w", name, err)
	}
	done := make(map[string]bool, len(mounts)) // controllers may share a hierarchy
	var errs []error
	for controller, m := range mounts {
		dir := filepath.Join(m.point, name)
		if done[m.point] {
			continue
		}
		done[m.point] = true
		if err := join(m.point, dir, pid); err != nil {
			errs = append(errs, fmt.Errorf("join cgroup %s in hierarchy %q: %w", name, controller, err))
		}
	}
	return errors.Join(errs...)
}

// Prefer sets the share of the CPU that the group which Join(name, …) made has where others want it too, in times of what a group
// has by default, from 1 to 100. Where no hierarchy divides CPU time it does nothing.
func Prefer(name string, times int) error {
	g, err := Named(name)
	if err != nil {
		return fmt.Errorf("share of cgroup %s: %w", name, err)
	}
	const (
		shares = 1024 // v1's default
		weight = 100  // v2's
	)
	file, value := filepath.Join(g.Paths["cpu"], "cpu.shares"), shares*times
	if g.Paths["cpu"] == "" {
		file, value = filepath.Join(g.Unified, "cpu.weight"), weight*times
	}
	err = os.WriteFile(file, []byte(strconv.Itoa(value)), 0) // which the kernel has made
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("share of cgroup %s: %w", name, err)
	}
	return nil
}

// Leave undoes Join: the process moves to the root of every hierarchy and the
// group is removed where nothing else is in it. It tries all hierarchies and
// returns all errors.
func Leave(name string, pid int) error {
	group, err := Named(name)
	if err != nil {
		return fmt.Errorf("leave cgroup %s: %w", name, err)
	}
	mounts, err := hierarchies()
	if err != nil {
		return fmt.Errorf("leave cgroup %s: %w", name, err)
	}
	var errs []error
	for _, m := range mounts {
		if err := cgroups.WriteCgroupProc(m.point, pid); err != nil {
			errs = append(errs, fmt.Errorf("leave cgroup %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, group.Remove())...)
}

// Named returns the group that Join(name, …) makes.
func Named(name string) (Group, error) {
	mounts, err := hierarchies()
	if err != nil {
		return Group{}, err
	}
	g := Group{Paths: make(map[string]string, len(mounts))}
	for controller, m := range mounts {
		if controller == unifiedKey {
			g.Unified = filepath.Join(m.point, name)
			continue
		}
		g.Paths[controller] = filepath.Join(m.point, name)
	}
	return g, nil
}

func join(root, dir string, pid int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := inheritCpuset(root, dir); err != nil {
		return err
	}
	return cgroups.WriteCgroupProc(dir, pid)
}

// inheritCpuset fills the two files of a v1 cpuset group that are empty in a
// new one; no process can enter before. Other hierarchies have no such files.
func inheritCpuset(root, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(own)) > 0 || dir == root {
			continue
		}
		if err := inheritCpuset(root, filepath.Dir(dir)); err != nil {
			return err
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), parent, 0o644); err != nil {
			return err
		}
	}
	return nil
}
