package shim

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/shutdown"
	"golang.org/x/sys/unix"
)

// orphanCheck is how often a shim that has never had a container looks whether it ever will.
const orphanCheck = 5 * time.Second

// endWhenOrphaned ends a shim that nobody will ever use: a containerd that is killed after it has started a
// shim, and before it has written down where that listens, does not know of it when it is back, and removes
// the bundle. Stock shims then stay for ever. used says that this one has had a container, whose end is containerd's
// to see to; gone tells whether the bundle is no more.
func endWhenOrphaned(sd shutdown.Service, used *atomic.Bool, gone func() bool, every time.Duration) {
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-sd.Done():
				return
			case <-tick.C:
			}
			switch {
			case used.Load():
				return
			case gone():
				sd.Shutdown()
				return
			}
		}
	}()
}

// bundleGone tells whether the directory in which containerd starts a shim has been removed.
func bundleGone() bool {
	_, err := unix.Getcwd(make([]byte, unix.PathMax))
	return errors.Is(err, unix.ENOENT)
}
