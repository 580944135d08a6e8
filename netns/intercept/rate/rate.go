// Package rate holds what passes to a number of units a second: bytes, or requests. Several connections may share one
// limit; each waits its turn in the order in which it came.
package rate

import (
	"sync"
	"time"
)

// Burst is how much may pass at once after a pause, as time at the limit. It has to be short beside the time over which a
// rate is measured (±5 % over 10 s), and long beside a timer's error.
const Burst = 50 * time.Millisecond

// Limit is a token bucket. What is to pass is paid for first: Take says how long to wait before it may. A nil Limit holds
// nothing back. All methods may be called from any goroutine.
type Limit struct {
	per  int64 // units a second
	size time.Duration

	mu   sync.Mutex
	free time.Time // when all that was taken is paid for; guarded by mu
}

// New makes a limit of so many units a second, more than 0.
func New(perSecond int64) *Limit {
	// One unit has to fit into a burst, or nothing would pass without waiting first.
	return &Limit{per: perSecond, size: max(Burst, time.Second/time.Duration(perSecond))}
}

// Piece is how many bytes should pass at a time: few enough that sharers take turns, enough to be worth a system call.
func (l *Limit) Piece() int64 {
	const turn = 20 * time.Millisecond
	return min(max(int64(float64(l.per)*turn.Seconds()), 4<<10), 1<<20)
}

// Take takes n units and returns how long to wait before they may pass.
func (l *Limit) Take(now time.Time, n int64) time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(l.cost(n))
	return max(0, l.free.Sub(now)-l.size)
}

// Give gives back n units that were taken and do not pass. Those behind them, who were told how long to wait, wait as long.
func (l *Limit) Give(n int64) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = l.free.Add(-l.cost(n))
}

func (l *Limit) cost(n int64) time.Duration {
	return time.Duration(float64(n) / float64(l.per) * float64(time.Second))
}

// Owed is how long it takes until all that was taken is paid for.
func (l *Limit) Owed(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.free.Sub(now))
}

// Idle tells whether nothing is owed: a new limit would behave the same.
func (l *Limit) Idle(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.free.After(now)
}
