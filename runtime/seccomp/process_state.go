package seccomp

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxStateBytes bounds runc's message. It carries the container's annotations,
// which are part of a config.json of at most 16 MiB (bundle.MaxSize).
const maxStateBytes = 32 << 20

// ErrBadState is wrapped by errors about a message that is not runc's.
var ErrBadState = errors.New("malformed container process state")

// newcomer is what a container process state says of a process to supervise.
type newcomer struct {
	container string
	pid       uint32 // 0: not said; it is who makes the first call
	origin    string
}

// parseState reads the message runc sends along with a listener descriptor. crun
// names no process, neither of the two, when it executes another one in a running container.
func parseState(message []byte) (newcomer, error) {
	if len(message) > maxStateBytes {
		return newcomer{}, fmt.Errorf("%w: more than %d bytes", ErrBadState, maxStateBytes)
	}
	var s specs.ContainerProcessState
	if err := json.Unmarshal(message, &s); err != nil {
		return newcomer{}, fmt.Errorf("%w: %w", ErrBadState, err)
	}
	unnamed := s.Pid == 0 && s.State.Pid == 0 && s.State.Status == specs.StateRunning
	switch {
	case len(s.Fds) != 1 || s.Fds[0] != specs.SeccompFdName:
		return newcomer{}, fmt.Errorf("%w: %d descriptors, want one called %s", ErrBadState, len(s.Fds), specs.SeccompFdName)
	case s.Pid <= 0 && !unnamed || int64(s.Pid) > 1<<31-1:
		return newcomer{}, fmt.Errorf("%w: process %d", ErrBadState, s.Pid)
	case s.State.ID == "":
		return newcomer{}, fmt.Errorf("%w: no container id", ErrBadState)
	}
	n := newcomer{container: s.State.ID, pid: uint32(s.Pid), origin: OriginExec}
	if s.Pid == s.State.Pid && !unnamed {
		n.origin = OriginInit
	}
	return n, nil
}
