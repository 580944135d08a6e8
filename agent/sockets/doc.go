// Package sockets lists the internet sockets of a network namespace by sock_diag(7), the kernel's own list: no file of
// the container is read, nothing in it can hide or invent a socket.
//
// A Table is bound to the network namespace of the thread that opened it and may be used from one goroutine at a time.
package sockets
