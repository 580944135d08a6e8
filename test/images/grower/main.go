// Command grower is a static binary that takes memory as it is told while it runs, so that all its runs are one workload. It
// executes nothing and reads no limit: static analysis can follow all of it.
//
// Its directory has one file a step, "1", "2" and so on, which may come to be while it runs: "BYTES BYTES_PER_SECOND" (0: as fast
// as it can) takes that much more memory, "free" gives all back, "end" ends. What a step took is then in "1.done": "BYTES SECONDS".
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func init() { runtime.LockOSThread() } // main runs on the thread whose id is the process's: others may set its priority

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: grower DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "grower:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	var all [][]byte
	for n := 1; ; n++ {
		path := filepath.Join(dir, strconv.Itoa(n))
		text, err := os.ReadFile(path)
		for ; os.IsNotExist(err) || err == nil && !strings.HasSuffix(string(text), "\n"); text, err = os.ReadFile(path) {
			time.Sleep(5 * time.Millisecond)
		}
		if err != nil {
			return err
		}
		began := time.Now()
		bytes := 0
		switch step := strings.TrimSpace(string(text)); step {
		case "end":
			return nil
		case "free":
			for _, mem := range all {
				if err := syscall.Munmap(mem); err != nil {
					return err
				}
			}
			all = nil
		default:
			var rate float64
			if _, err := fmt.Sscan(step, &bytes, &rate); err != nil {
				return fmt.Errorf("step %d, %q: %w", n, step, err)
			}
			mem, err := grow(bytes, rate)
			if err != nil {
				return err
			}
			all = append(all, mem)
		}
		done := fmt.Sprintf("%d %.3f\n", bytes, time.Since(began).Seconds())
		if err := os.WriteFile(path+".done", []byte(done), 0o600); err != nil {
			return err
		}
	}
}

// most is how much of its time a growth makes up for at once.
const most = 20 * time.Millisecond

// grow touches new memory page by page.
func grow(bytes int, perSecond float64) ([]byte, error) {
	mem, err := syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	if err := syscall.Madvise(mem, syscall.MADV_HUGEPAGE); err != nil { // 7 µs for a page of 4 KiB are no 1000 MB/s
		return nil, err
	}
	const page, look = 4 << 10, 256 << 10
	due := time.Now()
	for i := 0; i < bytes; i += page {
		mem[i] = 1
		if i%look != 0 || perSecond <= 0 {
			continue
		}
		due = due.Add(time.Duration(look / perSecond * 1e9))
		switch ahead := time.Until(due); {
		case ahead > time.Millisecond:
			time.Sleep(ahead)
		case ahead < -most: // what a wait has cost is not made up for at the speed of the machine
			due = due.Add(-ahead - most)
		}
	}
	return mem, nil
}
