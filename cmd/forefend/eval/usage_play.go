package eval

import (
	"slices"
	"time"

	"forefend.dev/forefend/predictor/forecast"
)

// usageMethod gives limits to one series. Calls come in the order of time: at each instant Advance for all series, then
// Limit for those whose window begins, then Add for all, so that no limit knows anything of its own or a later instant.
type usageMethod interface {
	Advance(at time.Time)
	Limit(at time.Time) float64
	Add(at time.Time, v float64)
}

// usageWindow is one window that was scored.
type usageWindow struct{ limit, peak float64 }

// usageScore is how well limits did.
type usageScore struct {
	Coverage   float64 `json:"coverage"`
	Violations float64 `json:"violations"` // share of windows whose peak exceeds their limit
	Footprint  float64 `json:"footprint"`  // sum of limits / sum of peaks
}

func scoreUsage(coverage float64, windows []usageWindow) usageScore {
	s := usageScore{Coverage: coverage}
	var limits, peaks float64
	for _, w := range windows {
		limits += w.limit
		peaks += w.peak
		if w.peak > w.limit {
			s.Violations++
		}
	}
	if len(windows) > 0 {
		s.Violations /= float64(len(windows))
	}
	if peaks > 0 {
		s.Footprint = limits / peaks
	}
	return s
}

// usageEvent is a sample on the family's common clock.
type usageEvent struct {
	at     int64
	series int
	value  float64
}

// usageEvents merges all series by time.
func usageEvents(all []usageSeries) []usageEvent {
	var events []usageEvent
	for i, s := range all {
		for _, v := range s.samples {
			events = append(events, usageEvent{v.at, i, v.value})
		}
	}
	slices.SortStableFunc(events, func(a, b usageEvent) int {
		if a.at != b.at {
			return int(min(max(a.at-b.at, -1), 1))
		}
		return a.series - b.series
	})
	return events
}

// usagePlayer replays a family. Windows are counted from each series' first sample. A window is scored if the series has
// an earlier one and goes on to the window's end.
type usagePlayer struct {
	events []usageEvent
	window int64
	state  []playedSeries
	scored []usageWindow
}

type playedSeries struct {
	method  usageMethod
	first   int64 // time of the first sample, until of the last one's successor
	until   int64
	number  int64 // of the window that is filling
	open    usageWindow
	started bool
	limited bool // open has a limit
}

func playUsage(all []usageSeries, events []usageEvent, window time.Duration, method func(s usageSeries) usageMethod) []usageWindow {
	p := usagePlayer{events: events, window: int64(window / time.Second)}
	for _, s := range all {
		p.state = append(p.state, playedSeries{method: method(s), first: s.samples[0].at, until: seriesEnd(s.samples)})
	}
	for len(p.events) > 0 {
		n := 1
		for n < len(p.events) && p.events[n].at == p.events[0].at {
			n++
		}
		p.instant(p.events[:n])
		p.events = p.events[n:]
	}
	for i := range p.state {
		p.close(&p.state[i])
	}
	return p.scored
}

// seriesEnd is the time until which samples say anything: half an interval after the last one.
func seriesEnd(samples []usageSample) int64 {
	last := samples[len(samples)-1].at
	var gaps []int64
	for i := 1; i < len(samples); i++ {
		gaps = append(gaps, samples[i].at-samples[i-1].at)
	}
	if len(gaps) == 0 {
		return last
	}
	slices.Sort(gaps)
	return last + gaps[len(gaps)/2]
}

// instant plays the samples of one point of time.
func (p *usagePlayer) instant(events []usageEvent) {
	at := time.Unix(events[0].at, 0)
	begins := func(e usageEvent) bool {
		s := &p.state[e.series]
		return !s.started || (e.at-s.first)/p.window > s.number
	}
	var fresh []int
	for _, e := range events {
		if begins(e) && !slices.Contains(fresh, e.series) {
			fresh = append(fresh, e.series)
			p.close(&p.state[e.series])
			p.state[e.series].method.Advance(at)
		}
	}
	for _, i := range fresh {
		s := &p.state[i]
		s.number = (events[0].at - s.first) / p.window
		s.limited = s.started
		s.open = usageWindow{}
		if s.limited {
			s.open.limit = s.method.Limit(at)
		}
		s.started = true
	}
	for _, e := range events {
		s := &p.state[e.series]
		s.open.peak = max(s.open.peak, e.value)
		s.method.Add(at, e.value)
	}
}

// close scores the window that was filling.
func (p *usagePlayer) close(s *playedSeries) {
	if s.limited && s.first+(s.number+1)*p.window <= s.until {
		p.scored = append(p.scored, s.open)
	}
	s.limited = false
}

// ours is the daemon's forecaster as a method.
type ours struct{ *forecast.Track }

func (o ours) Limit(at time.Time) float64 { return o.Forecast(at, 0).Bound }
