package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// trials are small harmless things that a policy may refuse.
var trials = map[string]func(argument string) (int64, error){
	"call":   tryCall,
	"write":  tryWrite,
	"read":   tryRead,
	"send":   trySend,
	"nofile": tryNofile,
}

// try does each of the things named, WHAT or WHAT=ARGUMENT, and prints what became of it.
func try(args []string) error {
	asJSON, args := jsonFlag(args)
	if len(args) == 0 {
		return errUsage
	}
	for _, arg := range args {
		what, argument, _ := strings.Cut(arg, "=")
		f := trials[what]
		if f == nil {
			return fmt.Errorf("there is no trial called %q", what)
		}
		value, err := f(argument)
		v := verdict{Name: arg, Result: "ok", Value: value}
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			v = verdictOf(arg, 0, errno)
		} else if err != nil {
			v.Result, v.Errno, v.Value = err.Error(), -1, 0
		}
		if err := v.print(os.Stdout, asJSON); err != nil {
			return err
		}
	}
	return nil
}

// tryCall makes a system call with two empty texts: one that takes paths and is let through fails with ENOENT.
func tryCall(name string) (int64, error) {
	nr, err := number(name)
	if err != nil {
		return 0, err
	}
	empty, err := evenText()
	if err != nil {
		return 0, err
	}
	value, errno := raw(nr, empty, empty)()
	if errno != 0 {
		return 0, errno
	}
	return int64(value), nil
}

// evenText is the address of an empty text with its lowest 16 bits zero. A call that takes a mode or flags where it was given an address
// must answer alike each time: mknod(2) refuses the mode of a directory with EPERM, which one address in sixteen was.
func evenText() (uintptr, error) {
	const even = 1 << 16
	m, err := unix.Mmap(-1, 0, 2*even, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, fmt.Errorf("map an empty text: %w", err)
	}
	address := uintptr(unsafe.Pointer(&m[0]))
	return (address + even - 1) &^ (even - 1), nil // mapped until the process ends
}

func tryWrite(path string) (int64, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.WriteString("x")
	return int64(n), err
}

// tryRead returns how many bytes a file has.
func tryRead(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(io.Discard, f)
}

// trySend sends a datagram to an address. Nobody needs to be there.
func trySend(address string) (int64, error) {
	c, err := net.Dial("udp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	n, err := c.Write([]byte("x"))
	return int64(n), err
}

// tryNofile returns the hard limit of open files.
func tryNofile(string) (int64, error) {
	var l unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	return int64(l.Max), err
}
