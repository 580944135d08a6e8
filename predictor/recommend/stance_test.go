package recommend

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"forefend.dev/forefend/predictor/evidence"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	listed = evidence.SafeguardEgressListed
	pids   = evidence.SafeguardPIDs
	off    = evidence.SafeguardNetworkOff
)

// Tightened at once, held through calm, taken back after it; what returns soon is held for longer.
func TestStance(t *testing.T) {
	p := Pace{Calm: time.Minute, PerMinute: 3}
	var s Stance
	now := noon
	look := func(after time.Duration, wanted []evidence.Safeguard, add, drop []evidence.Safeguard, again time.Duration) {
		t.Helper()
		now = now.Add(after)
		step, next := s.Next(wanted, now, p)
		if !slices.Equal(step.Add, add) || !slices.Equal(step.Drop, drop) || step.Again != again {
			t.Fatalf("after %s: %+v, want +%v -%v again after %s", now.Sub(noon), step, add, drop, again)
		}
		s = next
	}
	list := func(s ...evidence.Safeguard) []evidence.Safeguard { return s }
	look(0, nil, nil, nil, 0)
	look(0, list(listed), list(listed), nil, time.Minute)
	look(30*time.Second, list(listed), nil, nil, 0)
	look(10*time.Second, nil, nil, nil, 50*time.Second)
	look(49*time.Second, nil, nil, nil, time.Second)
	look(time.Second, nil, nil, list(listed), 0)
	look(time.Second, list(listed), list(listed), nil, time.Minute)
	look(time.Minute, nil, nil, nil, time.Minute) // twice as long this time
	look(time.Minute, nil, nil, list(listed), 0)
	look(time.Hour, list(listed), list(listed), nil, time.Minute) // forgiven
	look(time.Minute, list(pids), list(pids), list(listed), time.Minute)
}

// The pace has room for three a minute, and one of them is kept for what tightens.
func TestStanceIsBounded(t *testing.T) {
	p := Pace{Calm: time.Second, PerMinute: 3}
	var s Stance
	_, s = s.Next([]evidence.Safeguard{pids}, noon, p)
	_, s = s.Next([]evidence.Safeguard{pids, listed}, noon.Add(time.Second), p)
	step, s := s.Next(nil, noon.Add(10*time.Second), p)
	if !step.Empty() || step.Again != 50*time.Second {
		t.Errorf("a third change that only takes back: %+v", step)
	}
	step, s = s.Next([]evidence.Safeguard{off}, noon.Add(11*time.Second), p)
	if len(step.Add) != 1 || len(step.Drop) != 2 {
		t.Errorf("a third change that tightens: %+v", step)
	}
	step, s = s.Next([]evidence.Safeguard{off, pids}, noon.Add(12*time.Second), p)
	if !step.Empty() || step.Again != 48*time.Second || slices.Contains(s.Safeguards(), pids) {
		t.Errorf("a fourth: %+v %+v", step, s)
	}
	if step, _ = s.Next([]evidence.Safeguard{off, pids}, noon.Add(time.Minute), p); len(step.Add) != 1 {
		t.Errorf("when there is room again: %+v", step)
	}
}

// Whatever a risk does: in no minute are there more changes than the pace allows, what is wanted is held within a minute,
// and once nothing is wanted any more nothing is held, and nothing changes.
func TestStanceOfAnyRisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Pace{Calm: time.Duration(rapid.IntRange(1, 600).Draw(t, "calm")) * time.Second, PerMinute: rapid.IntRange(1, 6).Draw(t, "per minute")}
		table := evidence.DefaultSafeguards()
		var s Stance
		var changes []time.Time
		now, lacking := noon, time.Time{}
		look := func(wanted []evidence.Safeguard) time.Duration {
			step, next := s.Next(wanted, now, p)
			if !step.Empty() {
				changes = append(changes, now)
			}
			for _, a := range step.Add {
				if slices.Contains(s.Safeguards(), a) || !slices.Contains(wanted, a) {
					t.Fatalf("adds %s, held %v, wanted %v", a, s.Safeguards(), wanted)
				}
			}
			for _, d := range step.Drop {
				if !slices.Contains(s.Safeguards(), d) || slices.Contains(wanted, d) {
					t.Fatalf("drops %s, held %v, wanted %v", d, s.Safeguards(), wanted)
				}
			}
			s = next
			lacks := slices.ContainsFunc(wanted, func(w evidence.Safeguard) bool { return !slices.Contains(s.Safeguards(), w) })
			if !lacks {
				lacking = time.Time{}
			} else if lacking.IsZero() {
				lacking = now
			}
			if lacks && now.Sub(lacking) >= time.Minute {
				t.Fatalf("since %s it lacks one of %v, held %v", now.Sub(lacking), wanted, s.Safeguards())
			}
			if lacks && step.Again <= 0 {
				t.Fatalf("lacks one of %v and does not look again", wanted)
			}
			return step.Again
		}
		again := time.Duration(0)
		for range rapid.IntRange(0, 200).Draw(t, "looks") {
			wait := time.Duration(rapid.IntRange(0, 90_000).Draw(t, "ms")) * time.Millisecond
			if again > 0 {
				wait = min(wait, again)
			}
			now = now.Add(wait)
			again = look(table[rapid.SampledFrom(evidence.Levels).Draw(t, "level")])
		}
		for i, c := range changes {
			if n := i - p.PerMinute; n >= 0 && c.Sub(changes[n]) < time.Minute {
				t.Fatalf("%d changes in %s", p.PerMinute+1, c.Sub(changes[n]))
			}
		}
		for looks := 0; ; looks++ { // calm
			again = look(nil)
			if again == 0 {
				break
			}
			if now = now.Add(again); looks > 50 {
				t.Fatalf("never settles: %+v", s)
			}
		}
		if len(s.Held) > 0 {
			t.Fatalf("held for ever: %+v", s)
		}
	})
}

// A risk that goes up and down between two levels every few seconds does not take its safeguards with it.
func TestStanceDoesNotFlap(t *testing.T) {
	p := Pace{Calm: 5 * time.Minute, PerMinute: 3}
	table := evidence.DefaultSafeguards()
	var s Stance
	changes := 0
	for i := range 3600 {
		level := evidence.Medium
		if i%7 < 3 {
			level = evidence.High
		}
		step, next := s.Next(table[level], noon.Add(time.Duration(i)*time.Second), p)
		if s = next; !step.Empty() {
			changes++
		}
	}
	if changes != 1 {
		t.Errorf("%d changes in an hour", changes)
	}
}
