package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// int80 makes a 32-bit system call without arguments: a filter that knows only 64-bit numbers misreads it.
func int80(nr uint32) (r int32)

func int80Attempt() (uintptr, syscall.Errno) {
	const getpid32 = 20
	if r := int80(getpid32); r < 0 {
		return 0, syscall.Errno(-r)
	} else {
		return uintptr(r), 0
	}
}

// x32Attempt makes a call with the number space of the x32 ABI.
func x32Attempt() (uintptr, syscall.Errno) {
	const x32Bit = 0x40000000
	return raw(x32Bit | unix.SYS_GETPID)()
}
