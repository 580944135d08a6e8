package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

// sysCommand makes one raw system call. Arguments are numbers (0x and 0 prefixes work) or, when they are not, text
// whose address is passed, with a zero byte behind it.
func sysCommand(args []string) error {
	asJSON, args := jsonFlag(args)
	if len(args) == 0 || len(args) > 7 {
		return errUsage
	}
	nr, err := number(args[0])
	if err != nil {
		return err
	}
	var a [6]uintptr
	texts := make([][]byte, 0, 6) // keeps what a points at alive
	for i, text := range args[1:] {
		n, err := strconv.ParseInt(text, 0, 64)
		if err == nil {
			a[i] = uintptr(n)
			continue
		}
		b := append([]byte(text), 0)
		texts = append(texts, b)
		a[i] = uintptr(unsafe.Pointer(&b[0]))
	}
	runtime.LockOSThread() // the call may change this thread for good
	value, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	runtime.KeepAlive(texts)
	return verdictOf(args[0], value, errno).print(os.Stdout, asJSON)
}

// number resolves a system call's name or decimal number.
func number(s string) (uintptr, error) {
	if nr, ok := numbers[s]; ok {
		return nr, nil
	}
	nr, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("no system call %q on %s", s, runtime.GOARCH)
	}
	return uintptr(nr), nil
}

// loop makes the same call over and over and prints what one costs. Arguments are zero: only calls that take none, or
// that fail at once, say anything.
func loop(args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	nr, err := number(args[0])
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(args[1])
	if err != nil || count <= 0 {
		return errUsage
	}
	runtime.LockOSThread()
	var errno syscall.Errno
	begin := time.Now()
	for range count {
		_, _, errno = syscall.RawSyscall(nr, 0, 0, 0)
	}
	took := time.Since(begin)
	v := verdictOf(args[0], 0, errno)
	fmt.Printf("%s: %s, %d calls, %.1f ns each\n", v.Name, v.Result, count, float64(took.Nanoseconds())/float64(count))
	return nil
}

// flips makes the same call over and over for a while, with arguments of zero, and says when its result became another: a
// line has the begin of the last call before, in nanoseconds of the Unix clock, and the new result.
func flips(args []string) error {
	if len(args) != 2 {
		return errUsage
	}
	nr, err := number(args[0])
	if err != nil {
		return err
	}
	lasting, err := time.ParseDuration(args[1])
	if err != nil {
		return errUsage
	}
	runtime.LockOSThread()
	last := syscall.Errno(1<<16 - 1) // none has this number
	before := time.Now()
	for end := before.Add(lasting); before.Before(end); {
		now := time.Now()
		_, _, errno := syscall.RawSyscall(nr, 0, 0, 0)
		if errno != last {
			fmt.Println(before.UnixNano(), verdictOf(args[0], 0, errno).Result)
			last = errno
		}
		before = now
	}
	return nil
}
