// Package nodeload says how busy the node is: processor, memory, network and pressure, read from /proc every few
// seconds, and which of them are short.
//
// A Sampler reads; parsing is pure and bounded, since /proc may be another kernel's. What the kernel does not tell
// (pressure on a kernel without CONFIG_PSI, the speed of a virtual link) is marked unknown, never guessed.
// Both cgroup versions have the same files: pressure is the node's own, from /proc/pressure.
//
// Sampler.Load may be called from any goroutine and never waits for a file.
package nodeload
