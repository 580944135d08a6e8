package main

import "fmt"

// figure is one row of the table, with what it was made of.
type figure struct {
	Name     string               `json:"name"`
	Stock    string               `json:"stock"`    // "" when stock runc has no such thing
	Forefend string               `json:"forefend"` // median
	Change   string               `json:"change"`   // median of the paired ratios or differences, and their 95th percentile
	Target   string               `json:"target"`
	Met      string               `json:"met"`
	Value    float64              `json:"value"` // what is held against the target
	N        int                  `json:"n"`
	Load     [2]string            `json:"load"` // average of the last minute, before and after
	Samples  map[string][]float64 `json:"samples,omitempty"`
}

// target is what a figure must reach and what it should.
type target struct {
	must, aim float64
	atLeast   bool // the figure is to be high, not low
	unit      string
}

func (t target) String() string {
	relation := "<="
	if t.atLeast {
		relation = ">="
	}
	if t.must == t.aim {
		return fmt.Sprintf("%s %v%s", relation, t.must, t.unit)
	}
	return fmt.Sprintf("%s %v (%v)%s", relation, t.must, t.aim, t.unit)
}

// met says whether value reaches the aim, the target only, or neither.
func (t target) met(value float64) string {
	reaches := func(limit float64) bool { return value <= limit }
	if t.atLeast {
		reaches = func(limit float64) bool { return value >= limit }
	}
	switch {
	case reaches(t.aim) && t.aim != t.must:
		return "aim"
	case reaches(t.must):
		return "yes"
	}
	return "NO"
}

// hold sets the figure against a target.
func (f figure) hold(t target, value float64) figure {
	f.Target, f.Met, f.Value = t.String(), t.met(value), value
	return f
}

// paired is the row of two series that were taken in turns: their medians, and the median and 95th percentile of
// what f makes of each pair. The median is also the figure's value. format prints a sample, change a result of f.
func paired(name, format, change string, stock, forefend []float64, f func(stock, forefend float64) float64) figure {
	changes := pairwise(stock, forefend, f)
	mid := median(changes)
	return figure{
		Name:     name,
		Stock:    fmt.Sprintf(format, median(stock)),
		Forefend: fmt.Sprintf(format, median(forefend)),
		Change:   fmt.Sprintf(change, mid) + fmt.Sprintf(", p95 "+change, quantile(changes, 0.95)),
		Value:    mid,
		N:        len(changes),
		Samples:  map[string][]float64{"stock": stock, "forefend": forefend},
	}
}

// alone is the row of something stock runc does not have.
func alone(name, text string, samples []float64) figure {
	return figure{Name: name, Forefend: text, N: len(samples), Samples: map[string][]float64{"forefend": samples}}
}
