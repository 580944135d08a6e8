package gate

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// framed sends a datagram as a frame of its own making on in0: past IP, and so past the programs on the cgroup. Nil says that
// it was answered, so that it was on the wire.
func framed(to string) error {
	return errors.Join(errors.ErrUnsupported, net.UnknownNetworkError(to), unix.ENOSYS)
}
