package shim

import (
	"context"
	"io/fs"
	"os"

	"github.com/containerd/containerd/v2/pkg/shutdown"
	"golang.org/x/sys/unix"
)

// listenerFD is the descriptor on which the start command hands over the socket to serve.
const listenerFD = 3

// forgetSocket removes the shim's socket at its end. Upstream does that with what
// it finds in the bundle, which a containerd that was restarted may have removed before.
func forgetSocket(sd shutdown.Service, listener int) {
	address, err := unix.Getsockname(listener)
	if err != nil {
		return // not started by a start command
	}
	socket, ok := address.(*unix.SockaddrUnix)
	if !ok || socket.Name == "" {
		return
	}
	ours, err := os.Lstat(socket.Name)
	if err != nil || ours.Mode().Type() != fs.ModeSocket {
		return
	}
	sd.RegisterCallback(func(context.Context) error {
		if now, err := os.Lstat(socket.Name); err == nil && os.SameFile(now, ours) { // not that of the next shim
			_ = os.Remove(socket.Name) // upstream may be about to do it as well
		}
		return nil
	})
}
