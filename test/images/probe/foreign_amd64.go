package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// int80 makes a 32-bit system call without arguments: a filter that knows only 64-bit numbers misreads it.
func int80(nr uint32) (r int32)

// int80Attempt makes a 32-bit call, all of whose arguments are zero, in a copy of this process: on a machine whose kernel
// takes no 32-bit calls the instruction itself kills who makes it.
func int80Attempt(nr uint32) func() (uintptr, syscall.Errno) {
	return func() (uintptr, syscall.Errno) {
		return inCopy(func() syscall.Errno { return syscall.Errno(max(-int80(nr), 0)) })
	}
}

// x32Attempt makes a call with the number space of the x32 ABI, in a copy of this process.
func x32Attempt(nr, argument uintptr) func() (uintptr, syscall.Errno) {
	const x32Bit = 0x40000000
	return func() (uintptr, syscall.Errno) {
		return inCopy(func() syscall.Errno {
			_, _, errno := syscall.RawSyscall(x32Bit|nr, argument, 0, 0)
			return errno
		})
	}
}

// modifyLDT reads the local descriptor table, which has nothing in it.
func modifyLDT() (uintptr, syscall.Errno) { return raw(unix.SYS_MODIFY_LDT, 0, text(""), 0)() }
