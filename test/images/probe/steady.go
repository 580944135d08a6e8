package main

import (
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// steadied is what became of the calls of steady.
type steadied struct {
	Calls   int            `json:"calls"`
	Failed  map[string]int `json:"failed"` // by "call: ERRNO"
	Longest time.Duration  `json:"longest"`
}

// steady makes calls that every container may make, over and over in a directory, and says when it is told to end (SIGTERM) what
// became of them.
func steady(args []string) error {
	if len(args) != 1 {
		return errUsage
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	runtime.LockOSThread()
	dir, link := filepath.Join(args[0], "dir"), filepath.Join(args[0], "link")
	calls := []struct {
		name string
		make func() error
	}{
		{"mkdir", func() error { return unix.Mkdir(dir, 0o755) }},
		{"chmod", func() error { return unix.Chmod(dir, 0o700) }},
		{"symlink", func() error { return unix.Symlink(dir, link) }},
		{"unlink", func() error { return unix.Unlink(link) }},
		{"rmdir", func() error { return unix.Rmdir(dir) }},
		{"kill", func() error { return unix.Kill(os.Getpid(), 0) }},
		{"uname", func() error { return unix.Uname(new(unix.Utsname)) }},
		{"prlimit", func() error { return unix.Getrlimit(unix.RLIMIT_NOFILE, new(unix.Rlimit)) }},
	}
	result := steadied{Failed: map[string]int{}}
	for {
		for _, c := range calls {
			began := time.Now()
			if err := c.make(); err != nil {
				result.Failed[c.name+": "+errnoName(errnoOf(err))]++
			}
			result.Longest = max(result.Longest, time.Since(began))
			result.Calls++
		}
		select {
		case <-told:
			return json.NewEncoder(os.Stdout).Encode(result)
		case <-time.After(time.Millisecond): // a load, not a siege: the machine has more to do
		}
	}
}
