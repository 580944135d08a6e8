package history

import (
	"cmp"
	"errors"
	"slices"

	"forefend.dev/forefend/runtime/workload"
)

// Tunnels are attached before a run where most runs before it asked for them: a slot that is taken in vain is one that
// another container may lack.
const (
	waysWindow   = 16  // runs that count
	likelyShare  = 0.5 // of them that asked for a way, so that it is likely
	likelyAtOnce = 4   // ways, the likeliest
)

// ways are the ways out of the last runs whose agents asked for one.
type ways struct {
	runs uint8 // how many of them there are, at most waysWindow
	list []usedWay
}

// usedWay is a way and which runs took it: one bit for each, the newest the lowest.
type usedWay struct {
	name string
	runs uint16
}

// add counts a run that ended. One that asked for nothing tells nothing: it may not have come to it, or had no tunnels.
func (w *ways) add(asked map[string]uint64) {
	if len(asked) == 0 {
		return
	}
	w.runs = min(w.runs+1, waysWindow)
	for i := range w.list {
		w.list[i].runs <<= 1
	}
	for _, name := range busiest(asked, workload.MaxWays) {
		i := slices.IndexFunc(w.list, func(u usedWay) bool { return u.name == name })
		if i < 0 {
			i = len(w.list)
			w.list = append(w.list, usedWay{name: name})
		}
		w.list[i].runs |= 1
	}
	w.list = slices.DeleteFunc(w.list, func(u usedWay) bool { return u.runs == 0 })
	if extra := len(w.list) - workload.MaxWays; extra > 0 { // the ones longest ago
		slices.SortStableFunc(w.list, func(a, b usedWay) int { return cmp.Compare(b.newest(), a.newest()) })
		w.list = slices.Delete(w.list, 0, extra)
	}
}

// newest is how many runs ago it was taken last.
func (u usedWay) newest() int {
	n := 0
	for u.runs>>n&1 == 0 {
		n++
	}
	return n
}

// likely are the ways that the next run is likely to take.
func (w *ways) likely() (out []workload.LikelyWay) {
	for _, u := range w.list {
		used := 0
		for r := u.runs; r != 0; r &= r - 1 {
			used++
		}
		if float64(used) >= likelyShare*float64(w.runs) {
			out = append(out, workload.LikelyWay{Way: u.name, Used: used, Runs: int(w.runs)})
		}
	}
	slices.SortFunc(out, func(a, b workload.LikelyWay) int {
		return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.Way, b.Way))
	})
	return out[:min(len(out), likelyAtOnce)]
}

// predictWays is what the tunnels of the most exact code that has asked for some will be.
func (m *model) predictWays(keys []workload.Key) []workload.LikelyWay {
	for _, key := range keys {
		if !exact(key.Level) {
			break
		}
		if s := m.summaries.get(key); s != nil && s.ways.runs > 0 {
			return s.ways.likely()
		}
	}
	return nil
}

func (w *writer) ways(of *ways) {
	w.uint(uint64(of.runs))
	w.uint(uint64(len(of.list)))
	for _, u := range of.list {
		w.string(u.name)
		w.uint(uint64(u.runs))
	}
}

var errNoRuns = errors.New("a way out that no run took")

func (r *reader) ways() (w ways) {
	w.runs = uint8(r.count(waysWindow))
	for range r.count(workload.MaxWays) {
		name, runs := r.string(workload.MaxWay), uint16(r.count(1<<waysWindow-1))
		if runs == 0 {
			r.fail(errNoRuns)
			return ways{}
		}
		w.list = append(w.list, usedWay{name, runs})
	}
	return w
}
