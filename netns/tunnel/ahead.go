package tunnel

import (
	"sync"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// foresight counts how often tunnels were there before they were asked for.
type foresight struct {
	mu sync.Mutex
	n  api.Ahead // guarded by mu
}

// note counts one question for a use: by who foresees that there will be others, or by who needs it now.
func (f *foresight) note(sp *space, u *use, ahead bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ahead && u.asks == 0 && !u.ahead:
		u.ahead = true
		f.n.Attached++
	case !ahead && u.asks == 0 && u.ahead:
		f.n.Used++
	case !ahead && u.asks == 0:
		f.n.First++
	}
	if !ahead {
		u.asks++
	}
}

func (f *foresight) counts() api.Ahead {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}
