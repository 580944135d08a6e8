package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Set writes limits of memory, swap, CPU time and processes to the group as `runc update` would, in the order that the
// kernel needs, without starting runc. What r leaves out stays. After an error some of it may be set.
//
// A group that systemd manages is not to be set behind its back.
func (g Group) Set(r *specs.LinuxResources) error {
	limits := &cgroups.Resources{SkipDevices: true}
	if m := r.Memory; m != nil {
		limits.Memory, limits.MemorySwap, limits.MemoryReservation = value(m.Limit), value(m.Swap), value(m.Reservation)
	}
	if c := r.CPU; c != nil {
		limits.CpuShares, limits.CpuQuota, limits.CpuPeriod, limits.CpuBurst = value(c.Shares), value(c.Quota), value(c.Period), c.Burst
	}
	if r.Pids != nil {
		limits.PidsLimit = r.Pids.Limit
	}
	if _, v1 := g.dir("memory"); !v1 {
		return g.setUnified(limits, r.Unified)
	}
	for _, controller := range []interface {
		Name() string
		Set(string, *cgroups.Resources) error
	}{&fs.MemoryGroup{}, &fs.CpuGroup{}, &fs.PidsGroup{}} {
		dir, ok := g.Paths[controller.Name()]
		if !ok {
			continue
		}
		if err := controller.Set(dir, limits); err != nil {
			return fmt.Errorf("set limits of %s: %w", controller.Name(), err)
		}
	}
	return nil
}

func (g Group) setUnified(limits *cgroups.Resources, files map[string]string) error {
	if limits.CpuShares != 0 {
		limits.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(limits.CpuShares)
	}
	limits.Unified = files
	m, err := fs2.NewManager(&cgroups.Cgroup{Resources: limits}, g.Unified)
	if err == nil {
		err = m.Set(limits)
	}
	if err != nil {
		return fmt.Errorf("set limits: %w", err)
	}
	return nil
}

func value[T int64 | uint64](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Reclaim has the kernel take back memory of the group until no more than n bytes are in use, as far as it can: file
// cache, and what there is swap for. That takes as long as it takes; the group's processes go on.
func (g Group) Reclaim(n int64) error {
	dir, v1 := g.dir("memory")
	if v1 {
		// It ends with EBUSY where something cannot be taken, which is most of the time.
		_ = cgroups.WriteFile(dir, "memory.force_empty", "0")
		return nil
	}
	const tries = 8
	for range tries {
		used, err := g.Used()
		if err != nil {
			return err
		}
		if used <= n {
			return nil
		}
		err = cgroups.WriteFile(dir, "memory.reclaim", strconv.FormatInt(used-n, 10))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("make room in a cgroup: the kernel has no memory.reclaim, which Linux 5.19 has: %w", err)
		}
	}
	return nil
}

// Used is the memory in use, in bytes, file cache included.
func (g Group) Used() (int64, error) {
	dir, v1 := g.dir("memory")
	name := "memory.current"
	if v1 {
		name = "memory.usage_in_bytes"
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, fmt.Errorf("read memory in use: %w", err)
	}
	return number(data), nil
}

// Shares reads the CPU weight back as cgroup v1's shares, 0 where there is none. On v2, whose scale is coarser, it is the
// least number of shares with that weight.
func (g Group) Shares() int64 {
	dir, v1 := g.dir("cpu")
	name := "cpu.weight"
	if v1 {
		name = "cpu.shares"
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0
	}
	n := number(data)
	if v1 {
		return n
	}
	low, high := int64(2), int64(262144)
	for low < high {
		middle := (low + high) / 2
		if int64(cgroups.ConvertCPUSharesToCgroupV2Value(uint64(middle))) < n {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low
}

// SameShares reports whether a group with has shares, as Shares reads them, was given want.
func (g Group) SameShares(want, has int64) bool {
	if _, v1 := g.dir("cpu"); v1 {
		return want == has
	}
	weight := func(n int64) uint64 { return cgroups.ConvertCPUSharesToCgroupV2Value(uint64(min(n, math.MaxInt32))) }
	return weight(want) == weight(has)
}
