// Package owner finds out which process opened a TCP connection, from outside its container: the kernel's sock_diag has the socket's
// inode by the connection's two ends, and /proc/PID/fd says who holds it.
//
// What it finds is not a wall between processes of one container, which can hand sockets to each other, trace each other and run each
// other's programs. It tells processes apart that mean no harm to each other.
//
// It also ends connections (Cut), and tells which ones are bound to a device (Bound).
//
// All functions may be called from any goroutine. Not for: sockets of other network namespaces than the one asked about, UDP.
package owner
