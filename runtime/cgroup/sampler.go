package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Sample is what a group used up to one moment. Sizes are bytes. What the
// kernel does not tell is zero.
type Sample struct {
	Time       time.Time
	Memory     int64         // working set: usage without inactive file cache
	Cache      int64         // inactive file cache
	Need       int64         // see MemoryState
	MemoryPeak int64         // kernel's watermark of usage, all cache included
	CPU        time.Duration // total
	PIDs       int64
	PIDsPeak   int64         // kernel's watermark
	Throttled  time.Duration // total
	OOMKills   int64
	LimitHits  int64 // times usage reached the hard limit and something was reclaimed or refused
	ReadBytes  int64 // v1: without buffered writes that were flushed later by the kernel
	WriteBytes int64

	lists int64 // what usage has that is no need
}

// source is one kernel file and what to take from it. Names are tried in
// order; the first that exists is used.
type source struct {
	controller string
	v1         []string
	v2         []string
	parse1     func(data []byte, s *Sample)
	parse2     func(data []byte, s *Sample)
}

// sources are all files of a sample. memory.stat comes before the usage it is
// subtracted from.
var sources = []source{
	{"memory", []string{"memory.stat"}, []string{"memory.stat"}, memoryStat1, memoryStat2},
	{"memory", []string{"memory.usage_in_bytes"}, []string{"memory.current"}, memoryUsage, memoryUsage},
	{"memory", []string{"memory.max_usage_in_bytes"}, []string{"memory.peak"}, memoryPeak, memoryPeak},
	{"memory", []string{"memory.oom_control"}, []string{"memory.events"}, oomControl1, memoryEvents2},
	{"memory", []string{"memory.failcnt"}, nil, failcnt1, nil},
	{"cpuacct", []string{"cpuacct.usage"}, nil, cpuUsage1, nil},
	{"cpu", []string{"cpu.stat"}, []string{"cpu.stat"}, cpuStat1, cpuStat2},
	{"pids", []string{"pids.current"}, []string{"pids.current"}, pidsCurrent, pidsCurrent},
	{"pids", []string{"pids.peak"}, []string{"pids.peak"}, pidsPeak, pidsPeak},
	{"blkio", []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"}, nil, blkioBytes1, nil},
	{"io", nil, []string{"io.stat"}, nil, ioStat2},
}

// Sampler takes samples of one group through files it keeps open. Open files
// do not keep the group from being removed, but the kernel frees its memory
// only after Close.
type Sampler struct {
	readers []reader
	last    Sample
	buf     []byte
}

type reader struct {
	fd    int
	parse func(data []byte, s *Sample)
}

// Sampler opens the group's files. The error wraps fs.ErrNotExist when the
// group is gone.
func (g Group) Sampler() (*Sampler, error) {
	s := &Sampler{buf: make([]byte, 4096)}
	for _, src := range sources {
		dir, v1 := g.dir(src.controller)
		names, parse := src.v2, src.parse2
		if v1 {
			names, parse = src.v1, src.parse1
		}
		if dir == "" {
			continue
		}
		fd, err := openFirst(dir, names)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("sample cgroup: %w", err)
		}
		if fd >= 0 {
			s.readers = append(s.readers, reader{fd, parse})
		}
	}
	if len(s.readers) == 0 {
		return nil, fmt.Errorf("sample cgroup %v: %w", g.Map(), fs.ErrNotExist)
	}
	return s, nil
}

// openFirst opens the first name that exists; none gives -1 and is not an
// error: kernels and enabled controllers differ.
func openFirst(dir string, names []string) (fd int, err error) {
	for _, name := range names {
		path := filepath.Join(dir, name)
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
	return -1, nil
}

// Sample reads all files. When the group is removed meanwhile, totals and
// watermarks that can no longer be read keep their last values; when nothing
// can be read any more the error wraps fs.ErrNotExist.
func (s *Sampler) Sample() (Sample, error) {
	s.last.Time = time.Now()
	s.last.Memory, s.last.Cache, s.last.Need, s.last.PIDs = 0, 0, 0, 0
	gone := 0
	for _, r := range s.readers {
		data, err := s.read(r.fd)
		switch {
		case errors.Is(err, unix.ENODEV), errors.Is(err, fs.ErrNotExist):
			gone++
		case err != nil:
			return Sample{}, fmt.Errorf("sample cgroup: %w", err)
		default:
			r.parse(data, &s.last)
		}
	}
	if gone == len(s.readers) {
		return Sample{}, fmt.Errorf("sample cgroup: %w", fs.ErrNotExist)
	}
	return s.last, nil
}

// maxStat bounds one kernel file. io.stat has a line for each device.
const maxStat = 1 << 20

// read returns the file's content, valid until the next read. A short read is
// the end: such a file is one record, and asking again would make the kernel
// compute it again.
func (s *Sampler) read(fd int) ([]byte, error) {
	n := 0
	for {
		m, err := unix.Pread(fd, s.buf[n:], int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n += m
		if n < len(s.buf) || len(s.buf) >= maxStat {
			return s.buf[:n], nil
		}
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
}

// Close closes the files. The Sampler is of no use after it.
func (s *Sampler) Close() {
	for _, r := range s.readers {
		_ = unix.Close(r.fd) // only read from: nothing to lose
	}
	s.readers = nil
}
