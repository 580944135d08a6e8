package recommend

import (
	"slices"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

// Pace bounds how soon and how often the safeguards of a running container change.
type Pace struct {
	// Calm is how long the risk must not have called for a safeguard before it is taken back. Each time that one returns
	// soon after, the next calm takes twice as long, up to eight times.
	Calm      time.Duration
	PerMinute int // changes, at most; the last of them is kept for what tightens
}

const (
	longestCalm = 3 // doublings
	// forgiven is after how many of the longest calms a safeguard that returns has not returned.
	forgiven = 2
)

// Stance is what is done about the risk of one running container. The zero value does nothing. It is not changed by its
// methods, and shares no memory with what they return.
type Stance struct {
	Held    []Hold
	Left    []Hold      // taken back, not yet forgiven
	Changes []time.Time // of the last minute
}

// Hold is one safeguard.
type Hold struct {
	Safeguard evidence.Safeguard
	Wanted    time.Time // when the risk last called for it; of one taken back, when it was
	Returned  int       // how often it was needed again soon after it had been taken back, at most longestCalm
}

// Step is what is to be changed now.
type Step struct {
	Add, Drop []evidence.Safeguard
	Again     time.Duration // after which time to look again though nothing else happens; 0: never
}

// Empty reports that nothing is to be changed.
func (s Step) Empty() bool { return len(s.Add)+len(s.Drop) == 0 }

// Next decides what to do at a time when the risk calls for the wanted safeguards, and what the stance is if that is done.
// What is missing is added at once, as long as the pace has room; what nobody wants leaves when it has been calm. A step
// that only takes back leaves room for one that adds.
func (s Stance) Next(wanted []evidence.Safeguard, now time.Time, p Pace) (Step, Stance) {
	next := s.at(wanted, now, p)
	var step Step
	var left []Hold
	for _, w := range wanted {
		if !slices.ContainsFunc(next.Held, holds(w)) {
			step.Add = append(step.Add, w)
		}
	}
	soonest := time.Duration(0)
	next.Held = slices.DeleteFunc(next.Held, func(h Hold) bool {
		if slices.Contains(wanted, h.Safeguard) {
			return false
		}
		due := h.Wanted.Add(p.calm(h)).Sub(now)
		if due > 0 {
			if soonest == 0 || due < soonest {
				soonest = due
			}
			return false
		}
		step.Drop = append(step.Drop, h.Safeguard)
		h.Wanted = now
		left = append(left, h)
		return true
	})
	room := max(p.PerMinute, 1)
	if len(step.Add) == 0 && room > 1 {
		room--
	}
	switch {
	case step.Empty():
		return Step{Again: soonest}, next
	case len(next.Changes) >= room:
		wait := next.Changes[len(next.Changes)-room].Add(time.Minute).Sub(now)
		return Step{Again: wait}, s.at(wanted, now, p)
	}
	for _, w := range step.Add {
		h := Hold{Safeguard: w, Wanted: now}
		if i := slices.IndexFunc(next.Left, holds(w)); i >= 0 {
			h.Returned = min(next.Left[i].Returned+1, longestCalm)
			next.Left = slices.Delete(next.Left, i, i+1)
		}
		next.Held = append(next.Held, h)
	}
	next.Left = append(next.Left, left...)
	next.Changes = append(next.Changes, now)
	if step.Again = soonest; len(step.Add) > 0 && soonest == 0 {
		step.Again = p.Calm
	}
	return step, next
}

// at is the stance at a later time, with what is wanted then.
func (s Stance) at(wanted []evidence.Safeguard, now time.Time, p Pace) Stance {
	next := Stance{Held: slices.Clone(s.Held)}
	for i, h := range next.Held {
		if slices.Contains(wanted, h.Safeguard) {
			next.Held[i].Wanted = now
		}
	}
	for _, h := range s.Left {
		if now.Sub(h.Wanted) < forgiven*p.Calm<<longestCalm {
			next.Left = append(next.Left, h)
		}
	}
	for _, t := range s.Changes {
		if now.Sub(t) < time.Minute {
			next.Changes = append(next.Changes, t)
		}
	}
	return next
}

// calm is how long a safeguard must not have been wanted.
func (p Pace) calm(h Hold) time.Duration { return p.Calm << h.Returned }

func holds(s evidence.Safeguard) func(Hold) bool {
	return func(h Hold) bool { return h.Safeguard == s }
}

// Safeguards lists what is held.
func (s Stance) Safeguards() (list []evidence.Safeguard) {
	for _, h := range s.Held {
		list = append(list, h.Safeguard)
	}
	return list
}
