package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// Limits are the limits set on the group itself, as the kernel has them; a
// group around it may be tighter. Zero is none.
type Limits struct {
	Memory     int64
	MemorySoft int64   // v1: soft limit; v2: memory.high
	CPUs       float64 // cores
	PIDs       int64
}

// Limits reads back what the kernel enforces. The error wraps fs.ErrNotExist
// when the group is gone.
func (g Group) Limits() (Limits, error) {
	var l Limits
	var errs []error
	seen := false // some file was there
	read := func(controller, name1, name2 string) []byte {
		dir, v1 := g.dir(controller)
		name := name2
		if v1 {
			name = name1
		}
		if dir == "" {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case err == nil:
			seen = true
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
		return data
	}
	l.Memory = limit(read("memory", "memory.limit_in_bytes", "memory.max"))
	l.MemorySoft = limit(read("memory", "memory.soft_limit_in_bytes", "memory.high"))
	l.PIDs = limit(read("pids", "pids.max", "pids.max"))
	if _, v1 := g.dir("cpu"); v1 {
		l.CPUs = cores(read("cpu", "cpu.cfs_quota_us", ""), read("cpu", "cpu.cfs_period_us", ""))
	} else {
		l.CPUs = cores(cutByte(read("cpu", "", "cpu.max"), ' '))
	}
	if err := errors.Join(errs...); err != nil {
		return Limits{}, fmt.Errorf("read back limits: %w", err)
	}
	if !seen {
		return Limits{}, fmt.Errorf("read back limits of cgroup %v: %w", g.Map(), fs.ErrNotExist)
	}
	return l, nil
}

// unlimited is what v1's kernel may show where there is no limit, or less: the greatest number of whole pages, which are at most 64 KiB.
const unlimited = math.MaxInt64 - 1<<20

// limit reads a limit; "max", and what v1 rounds down from the greatest number
// to a page, is none.
func limit(data []byte) int64 {
	if n := number(data); n < unlimited {
		return n
	}
	return 0
}

// cores divides quota by period. "max" and v1's -1 are none.
func cores(quota, period []byte) float64 {
	q, p := number(quota), number(period)
	if q <= 0 || q == math.MaxInt64 || p <= 0 {
		return 0
	}
	return float64(q) / float64(p)
}
