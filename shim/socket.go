package shim

import (
	"context"
	"io/fs"
	"os"

	containerd "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/shim/internal/bootstrap"
)

// listenerFD is the descriptor on which the start command hands over the socket to serve.
const listenerFD = 3

// socketOf is the path of the socket that is served on a descriptor, "" where that is none.
func socketOf(listener int) string {
	address, err := unix.Getsockname(listener)
	if err != nil {
		return "" // not started by a start command
	}
	if socket, ok := address.(*unix.SockaddrUnix); ok {
		return socket.Name
	}
	return ""
}

// forgetSocket removes the shim's socket at its end, where upstream does not: it goes by what
// it finds in the bundle, which a containerd that was restarted may have removed before.
func forgetSocket(sd shutdown.Service, socket string) {
	if socket == "" {
		return
	}
	ours, err := os.Lstat(socket)
	if err != nil || ours.Mode().Type() != fs.ModeSocket {
		return
	}
	sd.RegisterCallback(func(context.Context) error {
		if address, err := containerd.ReadAddress(bootstrap.AddressFile); err == nil && address == "unix://"+socket {
			return nil // upstream takes a socket that is gone already for a fault
		}
		if now, err := os.Lstat(socket); err == nil && os.SameFile(now, ours) { // not that of the next shim
			_ = os.Remove(socket) // nobody is left to tell
		}
		return nil
	})
}
