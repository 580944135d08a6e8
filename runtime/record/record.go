package record

import (
	"errors"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// Version is the version of the record format. Raise it when a reader of the
// old format would misread a record, and keep a golden file of the old one.
const Version = 1

// ErrDamaged is wrapped by every error about a file that is there but cannot
// be what was written: cut short, altered, too large, of a newer version, in
// the wrong place. The error names the file.
var ErrDamaged = errors.New("damaged")

// Record is all that cleaning up after a container, or finding it again, needs.
type Record struct {
	Version int            `json:"version"`
	ID      workload.ID    `json:"id"`
	Run     string         `json:"run"`
	Facts   workload.Facts `json:"facts"`
	Bundle  string         `json:"bundle"`

	// Boot is the kernel's boot id. Process ids and start times mean nothing
	// in another boot. Write fills it when empty.
	Boot      string `json:"boot"`
	ShimPID   int    `json:"shim_pid"`
	ShimStart uint64 `json:"shim_start"` // Start(ShimPID)
	PID       int    `json:"pid,omitempty"`
	PIDStart  uint64 `json:"pid_start,omitempty"` // Start(PID)

	Cgroup       map[string]string `json:"cgroup,omitempty"`        // cgroup.Group.Map
	NotifySocket string            `json:"notify_socket,omitempty"` // where runc hands over the seccomp listener
	ShimSocket   string            `json:"shim_socket,omitempty"`   // where the shim serves containerd and api.Adapter
	Brief        bool              `json:"brief,omitempty"`         // its api.Adapter understands AdaptRequest.Brief
	Upper        string            `json:"upper,omitempty"`         // writable layer of the root filesystem
	Agent        *Agent            `json:"agent,omitempty"`         // nil: the container has none
	Created      time.Time         `json:"created,omitzero"`
	Started      time.Time         `json:"started,omitzero"`
	Decision     *api.Decision     `json:"decision,omitempty"`
	// Resources are those requested, updates included.
	Resources *specs.LinuxResources `json:"resources,omitempty"`
}

// Alive reports whether the shim that wrote the record still runs: the same
// process, not merely one with the same number, and not a zombie.
func (r Record) Alive() bool { return r.sameBoot() && alive(r.ShimPID, r.ShimStart) }

// Running reports whether the container's first process still runs.
func (r Record) Running() bool { return r.sameBoot() && alive(r.PID, r.PIDStart) }

func (r Record) sameBoot() bool { return r.Boot == "" || r.Boot == bootID() }
