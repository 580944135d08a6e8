package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// held is memory that must not be collected.
var held [][]byte

// allocate touches every page of mib MiB.
func allocate(mib int) {
	b := make([]byte, mib<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	held = append(held, b)
}

// grow touches memory MiB by MiB, at a rate if one is given, then holds it.
func grow(args []string) error {
	if len(args) < 1 || len(args) > 3 {
		return errUsage
	}
	mib, err := strconv.Atoi(args[0])
	if err != nil || mib < 0 {
		return errUsage
	}
	rate, hold := 0.0, time.Duration(0)
	if len(args) > 1 {
		if rate, err = strconv.ParseFloat(args[1], 64); err != nil || rate < 0 {
			return errUsage
		}
	}
	if len(args) > 2 {
		if hold, err = time.ParseDuration(args[2]); err != nil {
			return errUsage
		}
	}
	begin := time.Now()
	for i := range mib {
		allocate(1)
		if rate > 0 {
			due := begin.Add(time.Duration(float64(i+1) / rate * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
	}
	fmt.Printf("grown %d MiB in %.2f s\n", mib, time.Since(begin).Seconds())
	time.Sleep(hold)
	runtime.KeepAlive(held)
	return nil
}

// fork starts n children, prints how many there came to be, and waits for them.
func fork(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errUsage
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return errUsage
	}
	hold := "0s"
	if len(args) == 2 {
		hold = args[1]
	}
	var children []*exec.Cmd
	var failed error
	for range n {
		c := exec.Command("/proc/self/exe", "sleep", hold)
		if failed = c.Start(); failed != nil {
			break
		}
		children = append(children, c)
	}
	fmt.Printf("forked %d of %d\n", len(children), n)
	for _, c := range children {
		failed = errors.Join(failed, c.Wait())
	}
	return failed
}

// spin burns CPU on some threads.
func spin(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errUsage
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return errUsage
	}
	threads := 1
	if len(args) == 2 {
		if threads, err = strconv.Atoi(args[1]); err != nil || threads < 1 {
			return errUsage
		}
	}
	runtime.GOMAXPROCS(threads)
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for time.Now().Before(end) {
			}
		})
	}
	wg.Wait()
	return nil
}

// write writes a file of the given size.
func write(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return errUsage
	}
	size := 1
	if len(args) == 2 {
		var err error
		if size, err = strconv.Atoi(args[1]); err != nil || size < 0 {
			return errUsage
		}
	}
	return os.WriteFile(args[0], make([]byte, size), 0o644)
}
