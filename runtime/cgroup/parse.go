package cgroup

import (
	"bytes"
	"math"
	"time"
)

// The parsers take what they know and skip the rest: kernels add lines. None
// allocates.

func memoryStat1(data []byte, s *Sample) {
	s.Cache, s.lists = field(data, "total_inactive_file"), cache(data, true)
}
func memoryStat2(data []byte, s *Sample) {
	s.Cache, s.lists = field(data, "inactive_file"), cache(data, false)
}
func memoryUsage(data []byte, s *Sample) {
	s.Memory, s.Need = max(0, number(data)-s.Cache), max(0, number(data)-s.lists)
}
func memoryPeak(data []byte, s *Sample)  { s.MemoryPeak = number(data) }
func oomControl1(data []byte, s *Sample) { s.OOMKills = field(data, "oom_kill") }
func failcnt1(data []byte, s *Sample)    { s.LimitHits = number(data) }
func cpuUsage1(data []byte, s *Sample)   { s.CPU = time.Duration(number(data)) }
func cpuStat1(data []byte, s *Sample)    { s.Throttled = time.Duration(field(data, "throttled_time")) }
func pidsCurrent(data []byte, s *Sample) { s.PIDs = number(data) }
func pidsPeak(data []byte, s *Sample)    { s.PIDsPeak = number(data) }

func memoryEvents2(data []byte, s *Sample) {
	s.OOMKills = field(data, "oom_kill")
	s.LimitHits = field(data, "max")
}

func cpuStat2(data []byte, s *Sample) {
	s.CPU = microseconds(field(data, "usage_usec"))
	s.Throttled = microseconds(field(data, "throttled_usec"))
}

func microseconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
}

// blkioBytes1 sums lines "MAJOR:MINOR Read BYTES" over all devices.
func blkioBytes1(data []byte, s *Sample) {
	s.ReadBytes, s.WriteBytes = 0, 0
	for len(data) > 0 {
		var line []byte
		line, data = cutByte(data, '\n')
		_, rest := cutByte(line, ' ')
		op, n := cutByte(rest, ' ')
		switch string(op) {
		case "Read":
			s.ReadBytes = add(s.ReadBytes, number(n))
		case "Write":
			s.WriteBytes = add(s.WriteBytes, number(n))
		}
	}
}

// ioStat2 sums lines "MAJOR:MINOR rbytes=N wbytes=N …" over all devices.
func ioStat2(data []byte, s *Sample) {
	s.ReadBytes, s.WriteBytes = 0, 0
	for len(data) > 0 {
		var line []byte
		line, data = cutByte(data, '\n')
		for len(line) > 0 {
			var word []byte
			word, line = cutByte(line, ' ')
			name, n := cutByte(word, '=')
			switch string(name) {
			case "rbytes":
				s.ReadBytes = add(s.ReadBytes, number(n))
			case "wbytes":
				s.WriteBytes = add(s.WriteBytes, number(n))
			}
		}
	}
}

// field returns the number on the line "name NUMBER", 0 when there is none.
func field(data []byte, name string) int64 {
	for len(data) > 0 {
		var line []byte
		line, data = cutByte(data, '\n')
		if key, n := cutByte(line, ' '); string(key) == name {
			return number(n)
		}
	}
	return 0
}

// number reads the decimal digits data starts with. What does not fit, like the
// word "max", is the greatest number there is; without digits it is 0.
func number(data []byte) int64 {
	if bytes.HasPrefix(data, []byte("max")) {
		return math.MaxInt64
	}
	return digits(data)
}

// add is a sum that stays at the greatest number instead of overflowing.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func cutByte(data []byte, sep byte) (before, after []byte) {
	if i := bytes.IndexByte(data, sep); i >= 0 {
		return data[:i], data[i+1:]
	}
	return data, nil
}
