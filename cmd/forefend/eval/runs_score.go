package eval

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// byN names the rows by the number of earlier runs.
var byN = []string{"0", "1-4", "5-19", "20+"}

func rowOf(n int) string {
	switch {
	case n < 1:
		return byN[0]
	case n < 5:
		return byN[1]
	case n < 20:
		return byN[2]
	}
	return byN[3]
}

const gigabyte = 1e9 // bytes

// wasteOf is what one run of a peak (bytes) and a length (hours) wastes when it is first given limit, in GB·h, as in
// Bader et al., Sizey, CLUSTER 2024: what a try that succeeds was given beyond its peak, and all that a try was given that
// failed, for as long as the run takes (a time to failure of 1). A run above its limit is tried again at twice the
// limit and then at the user's request (asked, bytes), with which it did succeed when it was recorded.
func wasteOf(limit, peak, asked, hours float64) (waste float64, violated bool) {
	for _, try := range []float64{limit, 2 * limit} {
		if peak <= try {
			return (waste + try - peak) * hours / gigabyte, violated
		}
		waste, violated = waste+try, true
	}
	return (waste + max(asked-peak, 0)) * hours / gigabyte, true
}

// outcome is one scored run.
type outcome struct {
	n        int
	violated bool
	ratio    float64
	waste    float64
}

func outcomeOf(r *taskRun, n int, limit float64) outcome {
	w, v := wasteOf(limit, r.peak, r.asked, r.hours)
	return outcome{n, v, limit / r.peak, w}
}

// pointOf sums up outcomes. Every row is there, whether it has runs or not.
func pointOf(coverage float64, all []outcome) runsPoint {
	rows := make(map[string][]outcome)
	for _, o := range all {
		rows[rowOf(o.n)] = append(rows[rowOf(o.n)], o)
	}
	p := runsPoint{Coverage: coverage, ByN: make(map[string]runsByN)}
	whole := rowFrom(all)
	p.Runs, p.Violations, p.Waste = whole.Runs, whole.Violations, whole.Waste
	for _, name := range byN {
		p.ByN[name] = rowFrom(rows[name])
	}
	return p
}

func rowFrom(outcomes []outcome) runsByN {
	r := runsByN{Runs: len(outcomes)}
	ratios := make([]float64, 0, len(outcomes))
	for _, o := range outcomes {
		if o.violated {
			r.Violations++
		}
		r.Waste += o.waste
		ratios = append(ratios, o.ratio)
	}
	if len(outcomes) > 0 {
		r.Violations /= float64(len(outcomes))
		r.Ratio = median(ratios)
	}
	return r
}

// median of values, which it sorts. There is at least one.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func printRuns(w io.Writer, r runsResult) error {
	var err error
	line := func(format string, args ...any) {
		if err == nil {
			_, err = fmt.Fprintf(w, format, args...)
		}
	}
	show := func(name string, points []runsPoint) {
		for _, p := range points {
			line("%-14s asked %6.2f %%: %5d runs, %5.2f %% above, waste %9.1f GB·h", name, 100*(1-p.Coverage), p.Runs, 100*p.Violations, p.Waste)
			for _, n := range byN {
				line("; n=%s: %.1f %% at %.2f×", n, 100*p.ByN[n].Violations, p.ByN[n].Ratio)
			}
			line("\n")
		}
	}
	show("forefend", r.Points)
	for _, name := range slices.Sorted(maps.Keys(r.Baselines)) {
		show(name, r.Baselines[name])
	}
	return err
}

// wholeNode is the limit of a run of which nothing is known and that asked for nothing, in bytes.
const wholeNode = 1e12

// unlimited is the limit where a method says nothing: the user's request, or a node's memory.
func unlimited(r *taskRun) float64 {
	if r.asked > 0 {
		return r.asked
	}
	return wholeNode
}
