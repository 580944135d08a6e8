package record

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Start returns when a process started, in clock ticks since boot: with its
// number it names one process for as long as the machine is up. The error
// wraps fs.ErrNotExist when there is no such process.
func Start(pid int) (uint64, error) {
	_, start, err := readStat(pid)
	return start, err
}

// alive reports whether pid is the process that started at start and has not
// ended. A zombie has ended: nobody but its parent still sees it.
func alive(pid int, start uint64) bool {
	state, now, err := readStat(pid)
	return err == nil && now == start && state != 'Z' && state != 'X'
}

func readStat(pid int) (state byte, start uint64, err error) {
	if pid <= 0 {
		return 0, 0, fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("process %d: %w", pid, notExist(err))
	}
	state, start, err = parseStat(data)
	if err != nil {
		return 0, 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return state, start, nil
}

// notExist turns ESRCH, which a read of a process that ends meanwhile gives,
// into fs.ErrNotExist.
func notExist(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return fs.ErrNotExist
	}
	return err
}

// parseStat reads state and start time, fields 3 and 22 of proc_pid_stat(5).
// The command name in field 2 may hold spaces and parentheses, so the fields
// are counted from its last closing one.
func parseStat(data []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return 0, 0, fmt.Errorf("stat has no command name")
	}
	fields := bytes.Fields(data[end+1:])
	const stateField, startField = 0, 22 - 3 // the first one left is field 3
	if len(fields) <= startField || len(fields[stateField]) != 1 {
		return 0, 0, fmt.Errorf("stat has %d fields after the command name", len(fields))
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time in stat: %w", err)
	}
	return fields[stateField][0], start, nil
}

// bootID names this boot of the machine; empty where the kernel does not say,
// which then matches records that could not say either.
var bootID = sync.OnceValue(func() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
})
