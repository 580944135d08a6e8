package cgroup

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NodeMemory is how much memory the machine has and how much of it can still be had without swapping, in bytes, as the
// kernel estimates it (MemAvailable).
func NodeMemory() (total, available int64, err error) {
	fd, err := unix.Open("/proc/meminfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("memory of the node: /proc/meminfo: %w", err)
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, 0, fmt.Errorf("memory of the node: /proc/meminfo: %w", err)
	}
	total, available = nodeMemory(buf[:n])
	if total == 0 {
		return 0, 0, fmt.Errorf("memory of the node: /proc/meminfo says nothing of it")
	}
	return total, available, nil
}

func nodeMemory(meminfo []byte) (total, available int64) {
	for len(meminfo) > 0 {
		var line []byte
		line, meminfo = cutByte(meminfo, '\n')
		name, rest := cutByte(line, ':')
		for len(rest) > 0 && rest[0] == ' ' {
			rest = rest[1:]
		}
		switch string(name) {
		case "MemTotal":
			total = number(rest) << 10
		case "MemAvailable":
			return total, number(rest) << 10
		}
	}
	return total, available
}
