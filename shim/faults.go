package shim

import (
	"maps"
	"sync"
)

// faults count what went wrong with a container's agent, its channel and what it says, by kind.
type faults struct {
	mu sync.Mutex
	of map[string]uint64 // guarded by mu
}

func (f *faults) add(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = make(map[string]uint64)
	}
	f.of[kind]++
}

// counts are nil where there is none.
func (f *faults) counts() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.of)
}
