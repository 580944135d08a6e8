package rate

import (
	"testing"
	"time"
)

// TestRate: whatever the size of takes and however many share it, what passes in ten seconds is the limit within 5 %.
func TestRate(t *testing.T) {
	for _, per := range []int64{10, 5000, 1 << 20, 1 << 33} {
		for _, sharers := range []int{1, 10, 100} {
			l := New(per)
			begun := time.Unix(1000, 0)
			const length = 10 * time.Second
			free := make([]time.Time, sharers) // when each may go on
			for i := range free {
				free[i] = begun
			}
			n := max(1, per/50)
			passed := int64(0)
			for {
				next := 0
				for i := range free {
					if free[i].Before(free[next]) {
						next = i
					}
				}
				now := free[next]
				if now.Sub(begun) >= length {
					break
				}
				free[next] = now.Add(l.Take(now, n))
				if free[next].Sub(begun) < length {
					passed += n
				}
			}
			ratio := float64(passed) / float64(per) / length.Seconds()
			if ratio < 0.95 || ratio > 1.05 {
				t.Errorf("%d a second, %d sharers: %.3f", per, sharers, ratio)
			}
		}
	}
}

func TestIdle(t *testing.T) {
	now := time.Unix(1000, 0)
	l := New(1000)
	if !l.Idle(now) || l.Take(now, 50) != 0 || l.Idle(now) {
		t.Error("a burst passes at once, and is owed")
	}
	if wait := l.Take(now, 1000); wait != time.Second {
		t.Error(wait)
	}
	if !l.Idle(now.Add(1050 * time.Millisecond)) {
		t.Error("all is paid for")
	}
	var none *Limit
	if none.Take(now, 1<<40) != 0 {
		t.Error("no limit holds back")
	}
	if New(1).Piece() != 4<<10 || New(1<<40).Piece() != 1<<20 {
		t.Error("pieces are bounded")
	}
}

// TestGive: what is given back is as if it had never been taken, and no more than that.
func TestGive(t *testing.T) {
	l := New(10)
	now := time.Unix(1000, 0)
	l.Take(now, 10)
	l.Give(4)
	if o := l.Owed(now); o != 600*time.Millisecond {
		t.Errorf("%v are owed", o)
	}
	later := now.Add(time.Minute)
	l.Give(6) // what was paid for long ago brings nothing
	if l.Take(later, 10); l.Owed(later) != time.Second {
		t.Errorf("%v are owed after a second's worth was taken", l.Owed(later))
	}
	(*Limit)(nil).Give(1)
}
