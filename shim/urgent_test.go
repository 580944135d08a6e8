package shim

import (
	"testing"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// A container that always has something urgent to tell is heard at once at first, then once every two seconds.
func TestUrgentReportsAreBounded(t *testing.T) {
	var p urgentPace
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	began := now
	var at []time.Duration
	for now.Sub(began) < time.Minute {
		d := p.wait(now)
		if d < urgentDelay || d > urgentEvery {
			t.Fatalf("after %s it waits %s", now.Sub(began), d)
		}
		now = now.Add(d)
		p.spend(now)
		at = append(at, now.Sub(began))
	}
	if at[0] != urgentDelay || at[1]-at[0] != urgentGap || len(at) > urgentBurst+31 {
		t.Errorf("%d reports a minute: %v", len(at), at)
	}
	now = now.Add(time.Hour)
	if d := p.wait(now); d != urgentDelay || p.left != urgentBurst {
		t.Errorf("after an hour of silence it waits %s, with %d left", d, p.left)
	}
}

func TestUrgencyNeverBlocks(t *testing.T) {
	u := newUrgency()
	u.call()
	u.call()
	urgency(nil).call()
	if <-u; len(u) != 0 {
		t.Error("told twice")
	}
}

func TestRose(t *testing.T) {
	before := workload.Usage{MemoryPeak: 1 << 30, CPUPeak: 1, PIDsPeak: 10}
	for name, c := range map[string]struct {
		change func(*workload.Usage)
		want   bool
	}{
		"nothing":         {func(*workload.Usage) {}, false},
		"a little memory": {func(u *workload.Usage) { u.MemoryPeak += 200 << 20 }, false},
		"memory":          {func(u *workload.Usage) { u.MemoryPeak += 300 << 20 }, true},
		"a little CPU":    {func(u *workload.Usage) { u.CPUPeak += 0.4 }, false},
		"CPU":             {func(u *workload.Usage) { u.CPUPeak += 0.6 }, true},
		"few processes":   {func(u *workload.Usage) { u.PIDsPeak += 30 }, false},
		"processes":       {func(u *workload.Usage) { u.PIDsPeak += 40 }, true},
		"killed":          {func(u *workload.Usage) { u.OOMKills++ }, true},
	} {
		now := before
		c.change(&now)
		if got := rose(before, now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
