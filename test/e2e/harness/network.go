package harness

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// privateNetwork is a network namespace that no path names: it is gone when nothing runs in it any more and the
// descriptor is closed, and with it every bridge, address and firewall rule that was made there.
type privateNetwork struct {
	file *os.File
}

// newPrivateNetwork makes a network namespace whose loopback is up.
func newPrivateNetwork() (*privateNetwork, error) {
	var file *os.File
	err := onSpareThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		link, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("loopback of a new network namespace: %w", err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("loopback of a new network namespace: %w", err)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	return &privateNetwork{file: file}, nil
}

// do runs f on a thread inside the namespace. Sockets opened and processes started by f stay there.
func (n *privateNetwork) do(f func() error) error {
	if n == nil {
		return f()
	}
	return onSpareThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

func (n *privateNetwork) close() error {
	if n == nil {
		return nil
	}
	return n.file.Close()
}

// onSpareThread runs f on a thread that nobody uses afterwards: it stays locked, so the runtime ends it.
func onSpareThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			done <- f()
			return
		}
		// The main thread cannot end, and what it left behind would be all of /proc/self. While it is held here,
		// another one does it.
		done <- onSpareThread(f)
		runtime.UnlockOSThread()
	}()
	return <-done
}

// InNetwork runs f, on a thread of its own, in the network containerd and its host-network pods are in: a private one
// under WithCRI, else the machine's. What f opens or starts stays in it. f must not end the goroutine (no t.Fatal).
func (e *Env) InNetwork(f func() error) error { return e.network.do(f) }
