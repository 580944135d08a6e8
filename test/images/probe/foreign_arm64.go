package main

import "syscall"

// There is no second way into an arm64 kernel from a 64-bit process, and no descriptor table.

func int80Attempt(uint32) func() (uintptr, syscall.Errno) { return missing }

func x32Attempt(uintptr, uintptr) func() (uintptr, syscall.Errno) { return missing }

func modifyLDT() (uintptr, syscall.Errno) { return missing() }

func missing() (uintptr, syscall.Errno) { return 0, syscall.ENOSYS }
