package intercept

import (
	"sync"
	"sync/atomic"

	"forefend.dev/forefend/netns/intercept/http1"
)

// counters are what an Engine counts, from its beginning.
type counters struct {
	connections, requests, denied, refused, direct, failed, replayed, cut, unread atomic.Int64

	mu        sync.Mutex
	malformed map[http1.Kind]int64 // guarded by mu
}

// Counters are the numbers of an Engine since it was made.
type Counters struct {
	Connections int64 `json:"connections"` // taken
	Open        int64 `json:"open"`        // now
	Requests    int64 `json:"requests"`    // of HTTP
	Denied      int64 `json:"denied"`      // requests and connections, by a decision or for want of one
	Refused     int64 `json:"refused"`     // connections beyond the quota
	Direct      int64 `json:"direct"`      // connections to the interceptor's own port
	Failed      int64 `json:"failed"`      // no connection to the server
	Replayed    int64 `json:"replayed"`    // requests that were sent again, the first time had no answer
	Cut         int64 `json:"cut"`         // connections ended by a new epoch, or for what they became
	// Malformed are messages with no single interpretation, by kind; MalformedHello those of TLS.
	Malformed      map[http1.Kind]int64 `json:"malformed,omitempty"`
	MalformedHello int64                `json:"malformed_hello"`
	Lookups        Lookups              `json:"lookups"`
}

func (c *counters) fault(k http1.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.malformed == nil {
		c.malformed = make(map[http1.Kind]int64)
	}
	c.malformed[k]++
}

// Counters returns the numbers now.
func (e *Engine) Counters() Counters {
	c := &e.count
	e.mu.Lock()
	open := int64(len(e.sessions))
	e.mu.Unlock()
	out := Counters{
		Connections: c.connections.Load(), Open: open, Requests: c.requests.Load(), Denied: c.denied.Load(),
		Refused: c.refused.Load(), Direct: c.direct.Load(), Failed: c.failed.Load(), Replayed: c.replayed.Load(), Cut: c.cut.Load(),
		MalformedHello: c.unread.Load(), Lookups: e.lookups.counters(), Malformed: make(map[http1.Kind]int64),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, n := range c.malformed {
		out.Malformed[k] = n
	}
	return out
}
