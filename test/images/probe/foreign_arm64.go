package main

import "syscall"

// There is no second way into an arm64 kernel from a 64-bit process.
func int80Attempt() (uintptr, syscall.Errno) { return 0, syscall.ENOSYS }
func x32Attempt() (uintptr, syscall.Errno)   { return 0, syscall.ENOSYS }
