// Package scan finds, without running anything, the system calls that a command may make in a root filesystem: those of
// its program and of every library, plugin, script and child program that may come to run with it. docs/predictor/scan.md
// says how, on what assumptions, and when it fails.
//
// All it reads is hostile. Files are opened through a rootfs.Tree only, sizes and work are bounded, and nothing is
// executed. It is meant for a sandboxed child process (cmd/forefend-scan): a damaged file may make a scan fail.
package scan
