package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/internal/config"
)

const (
	// handOver is how long the process before this one may take to end. It is asked, and then made to: what it enforces
	// lives in shims and the kernel, and what it knows is on disk.
	handOver = 10 * time.Second
	// lookAgain is shorter than it takes to start a process: who waits for the lock gets it before a newcomer does.
	lookAgain = 2 * time.Millisecond
)

// takeOver is lockFile for a process that replaces another: the one that holds the lock is ended first.
func takeOver(ctx context.Context, cfg *config.Config, path string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*handOver)
	defer cancel()
	end := ender{lock: path, asked: make(map[int]time.Time)}
	for {
		lock, err := lockFile(cfg, path)
		if !errors.Is(err, errBusy) {
			return lock, err
		}
		if err := end.holder(); err != nil {
			return nil, err
		}
		if !sleep(ctx, lookAgain) {
			return nil, fmt.Errorf("%s is locked, and its process does not end: %w", path, ctx.Err())
		}
	}
}

// stop ends the process that holds a lock and returns whether there was one. Containers run on under their policy.
func stop(ctx context.Context, path string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*handOver)
	defer cancel()
	end := ender{lock: path, asked: make(map[int]time.Time)}
	first := lockHolder(path)
	for pid := first; pid != 0 && pid == first; pid = lockHolder(path) { // another one was started meanwhile: by somebody who wants it
		if err := end.holder(); err != nil {
			return true, err
		}
		if !sleep(ctx, lookAgain) {
			return true, fmt.Errorf("process %d does not end: %w", pid, ctx.Err())
		}
	}
	return first != 0, nil
}

// sleep waits for d and returns whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// ender asks the holders of a lock to end, each once, and ends those that do not.
type ender struct {
	lock  string // path
	asked map[int]time.Time
}

// holder is called again and again while the lock is taken.
func (e *ender) holder() error {
	pid := lockHolder(e.lock)
	if pid == 0 || pid == os.Getpid() {
		return nil // it has only just ended, or has not yet written who it is
	}
	since, known := e.asked[pid]
	sig := unix.SIGTERM
	switch {
	case !known:
		e.asked[pid] = time.Now()
	case time.Since(since) < handOver:
		return nil
	default:
		sig = unix.SIGKILL
	}
	if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}

// lockHolder returns the process that holds a lock: the one the file names, if the kernel says so too. 0 is
// nobody, or nobody that this process can see.
func lockHolder(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && unix.Kill(pid, 0) == nil {
			return pid // a kernel without the list
		}
		return 0
	}
	// 1: FLOCK  ADVISORY  WRITE 4242 00:1a:5678 0 EOF; the device can differ from stat's on overlay and btrfs.
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && f[4] == strconv.Itoa(pid) && strings.HasSuffix(f[5], inode) {
			return pid
		}
	}
	return 0
}
