package intercept

import (
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/rate"
)

// limits are what holds one flow back: all of them do.
type limits struct {
	requests, up, down []*rate.Limit
}

// rates holds the limits that connections share.
type rates struct {
	mu     sync.Mutex
	shared map[rateKey]*rate.Limit // guarded by mu
}

type rateKey struct {
	flow.Rate
	user string
	what byte // 'r' for requests, 'u' up, 'd' down
}

// maxShared is how many limits are kept before the idle ones are forgotten.
const maxShared = 4096

// of are the limits for a flow of the user. Those by connection are new.
func (r *rates) of(wanted []flow.Rate, user string) *limits {
	if len(wanted) == 0 {
		return nil
	}
	l := &limits{}
	for _, w := range wanted {
		if w.Requests > 0 {
			l.requests = append(l.requests, r.get(w, user, 'r', w.Requests))
		}
		if w.Bytes > 0 {
			l.up = append(l.up, r.get(w, user, 'u', w.Bytes))
			l.down = append(l.down, r.get(w, user, 'd', w.Bytes))
		}
	}
	return l
}

func (r *rates) get(w flow.Rate, user string, what byte, per int64) *rate.Limit {
	k := rateKey{Rate: w, what: what}
	switch w.Scope {
	case flow.PerUser:
		k.user = user
	case flow.PerRule:
	default:
		return rate.New(per)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.shared[k]; ok {
		return l
	}
	if len(r.shared) >= maxShared {
		now := time.Now()
		for k, l := range r.shared {
			if l.Idle(now) {
				delete(r.shared, k)
			}
		}
	}
	if r.shared == nil {
		r.shared = make(map[rateKey]*rate.Limit)
	}
	l := rate.New(per)
	r.shared[k] = l
	return l
}

// take has n units pass all limits. It returns false if gone was closed while waiting.
func take(all []*rate.Limit, n int64, gone <-chan struct{}) bool {
	if len(all) == 0 {
		return true
	}
	var wait time.Duration
	now := time.Now()
	for _, l := range all {
		wait = max(wait, l.Take(now, n))
	}
	if waited(wait, gone) {
		return true
	}
	give(all, n)
	return false
}

// waited waits so long. It returns false if gone was closed before.
func waited(wait time.Duration, gone <-chan struct{}) bool {
	if wait == 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
		return false
	}
}

// charge is the limits of which a request has taken its turn. It takes one of each, however often it is decided again before it is sent.
type charge []*rate.Limit

// move has the request take its turn of these limits and of no others: of those of which it has it already it waits for no second one. It
// returns how long to wait.
func (c *charge) move(to []*rate.Limit) (wait time.Duration) {
	for _, l := range *c {
		if !slices.Contains(to, l) {
			l.Give(1)
		}
	}
	now := time.Now()
	for _, l := range to {
		if !slices.Contains(*c, l) {
			wait = max(wait, l.Take(now, 1))
		}
	}
	*c = to
	return wait
}

// take is move, and waits. It returns false, with everything given back, if gone was closed meanwhile.
func (c *charge) take(to []*rate.Limit, gone <-chan struct{}) bool {
	if waited(c.move(to), gone) {
		return true
	}
	c.back()
	return false
}

// back gives back what was taken, for a request that is not sent.
func (c *charge) back() { c.move(nil) }

// give gives back what was taken of all limits and does not pass.
func give(all []*rate.Limit, n int64) {
	for _, l := range all {
		l.Give(n)
	}
}

// piece is how many bytes may pass at a time.
func piece(all []*rate.Limit) int64 {
	n := int64(1 << 20)
	for _, l := range all {
		n = min(n, l.Piece())
	}
	return n
}

func (l *limits) ofRequests() []*rate.Limit {
	if l == nil {
		return nil
	}
	return l.requests
}
