package api

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Action is something done to a running container at once. It is no value of a policy: nothing is merged, no revision
// is made, and a change that is under way does not hold it up.
type Action string

// The actions. Freezing and thawing are what containerd calls pause and resume, and containerd sees them as those.
const (
	ActionFreeze Action = "freeze" // no process of the container runs on
	ActionThaw   Action = "thaw"
	ActionKill   Action = "kill" // SIGKILL to every process of the container
)

// Actions lists every action.
var Actions = []Action{ActionFreeze, ActionThaw, ActionKill}

// ParseAction reads the name of an action; the error is ErrInvalidArgument.
func ParseAction(s string) (Action, error) {
	for _, a := range Actions {
		if s == string(a) {
			return a, nil
		}
	}
	return "", fmt.Errorf("%.40q is not one of freeze, thaw, kill: %w", s, errdefs.ErrInvalidArgument)
}

// Event is the kind of the event that says an action was done.
func (a Action) Event() string {
	switch a {
	case ActionFreeze:
		return EventFrozen
	case ActionThaw:
		return EventThawed
	}
	return EventKilled
}
