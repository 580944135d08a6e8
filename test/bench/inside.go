package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// insideCommand makes this program time system calls or burn CPU, instead of measuring: it is bind-mounted into the
// containers, so that both runtimes run the same code.
const insideCommand = "inside"

// The calls that are timed, with zeros as arguments: both are harmless and do next to nothing in the kernel.
const (
	nativeCall  = syscall.SYS_GETPPID
	watchedCall = syscall.SYS_SETFSUID
	nativeName  = "getppid"
	watchedName = "setfsuid"
)

const (
	nativeBatches = 200 // of batchSize calls: the clock costs as much as one call
	batchSize     = 1000
	watchedCalls  = 250
	coldCalls     = 50 // not counted
)

// timings are nanoseconds for each call: means of batches for the native one, single calls for the watched one.
type timings struct {
	Native  []float64 `json:"native"`
	Watched []float64 `json:"watched"`
	Errno   int       `json:"errno"` // of the watched call
}

func inside(args []string) int {
	if len(args) == 2 && args[0] == "spin" {
		return spin(args[1])
	}
	if len(args) > 1 && args[0] == "egress" {
		if err := insideEgress(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	if len(args) > 1 && args[0] == "streams" {
		if err := insideStreams(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	runtime.LockOSThread()
	var t timings
	for i := range nativeBatches + 5 {
		begin := time.Now()
		for range batchSize {
			_, _, _ = syscall.RawSyscall(nativeCall, 0, 0, 0) // it cannot fail
		}
		if i >= 5 {
			t.Native = append(t.Native, float64(time.Since(begin).Nanoseconds())/batchSize)
		}
	}
	for i := range watchedCalls + coldCalls {
		begin := time.Now()
		_, _, errno := syscall.RawSyscall(watchedCall, 0, 0, 0)
		if took := time.Since(begin); i >= coldCalls {
			t.Watched = append(t.Watched, float64(took.Nanoseconds()))
		}
		t.Errno = int(errno)
	}
	if err := json.NewEncoder(os.Stdout).Encode(t); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// spin burns CPU on some threads until it is killed, or for an hour should nobody do that.
func spin(threads string) int {
	n, err := strconv.Atoi(threads)
	if err != nil || n < 1 {
		return 2
	}
	runtime.GOMAXPROCS(n)
	end := time.Now().Add(time.Hour)
	for range n - 1 {
		go func() {
			for time.Now().Before(end) {
			}
		}()
	}
	for time.Now().Before(end) {
	}
	return 0
}
