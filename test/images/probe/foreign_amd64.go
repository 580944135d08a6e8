package main

import (
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// int80 makes a 32-bit system call without arguments: a filter that knows only 64-bit numbers misreads it.
func int80(nr uint32) (r int32)

// int80Attempt answers ENOSYS on a machine whose kernel takes no 32-bit calls: there the instruction itself faults.
func int80Attempt() (pid uintptr, errno syscall.Errno) {
	const getpid32 = 20
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			pid, errno = 0, syscall.ENOSYS
		}
	}()
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
