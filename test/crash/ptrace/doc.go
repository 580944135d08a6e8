// Package ptrace stops a process at an exact step from outside: at a system call it is about to make or has just
// made, or at the execution of a program. It follows every process that the traced one starts.
//
// It is for crash tests, which must kill production binaries at a point between two of their effects, and for
// recording the order in which a process changes files. Nothing that ships knows it. It is ptrace(2): one tracer at a
// time may hold a process, and what runs under it is slow.
//
// Handlers run one after the other on the thread that called Run, while the process they are about stands still. They
// must not wait for a traced process.
package ptrace
