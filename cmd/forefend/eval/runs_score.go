package eval

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"forefend.dev/forefend/cmd/forefend/output"
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

// text prints a line for each method and coverage; a column for each number of earlier runs holds the
// share of violations and the median of limit / peak.
func (r runsResult) text(w io.Writer) error {
	columns := []output.Column{{Name: "METHOD"}, {Name: "ASKED", Right: true}, {Name: "ABOVE", Right: true}, {Name: "WASTE", Note: "GB·h", Right: true}}
	for _, n := range byN {
		columns = append(columns, output.Column{Name: "N=" + n, Note: "above ratio", Right: true})
	}
	t := output.NewTable(columns...)
	show := func(name string, points []runsPoint) {
		for _, p := range points {
			cells := []string{name, output.Percent(1 - p.Coverage), output.Percent(p.Violations), fmt.Sprintf("%.1f", p.Waste)}
			for _, n := range byN {
				cells = append(cells, fmt.Sprintf("%s %.2f", output.Percent(p.ByN[n].Violations), p.ByN[n].Ratio))
			}
			t.Row(cells...)
		}
	}
	show("forefend", r.Points)
	for _, name := range slices.Sorted(maps.Keys(r.Baselines)) {
		show(name, r.Baselines[name])
	}
	page := output.NewPage(w)
	page.Table(t)
	return page.Err()
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
