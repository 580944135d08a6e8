package api

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// A node is upgraded while shims of the release before live on, and those of pods
// go on creating containers: shims and daemons of neighbouring releases have to
// understand one another, whichever is the newer. So a field, once there, keeps its meaning;
// new ones are added, and who does not know one ignores it. Only a change that
// a reader must not ignore raises Oldest.
const (
	// Version is the version of this contract, for people and for what is kept on disk.
	Version = 1
	// Oldest is the oldest version whose readers do right by what this one writes.
	Oldest = 1
)

// Understood reports whether this program does right by a request of the given
// version which says that readers from oldest on do (0, of builds that did not say: the version itself). If not, the
// error is errdefs.ErrNotImplemented, and to a shim the daemon is as good as away.
func Understood(version, oldest int) error {
	if oldest == 0 {
		oldest = version
	}
	if oldest > Version {
		return fmt.Errorf("the shim speaks version %d of the API and needs a daemon of version %d, this one has %d: "+
			"restart the daemon of the new release: %w", version, oldest, Version, errdefs.ErrNotImplemented)
	}
	return nil
}
