package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// printRisk prints the risk and what each factor adds to it.
func printRisk(page *output.Page, d api.Decision) {
	r := d.Risk
	if r == nil {
		return
	}
	page.Heading(fmt.Sprintf("Risk %.0f of 100: %s", r.Score, r.Level))
	for _, f := range r.Factors {
		page.Item(2, fmt.Sprintf("%-*s%5s", valueAt, output.Truncate(f.Name, valueAt-1), output.Percent(f.Share)), authorAt-2, f.Why)
	}
	if s := d.Standing; s != nil && s.Runs > 0 {
		page.Item(2, "who asks", valueAt, fmt.Sprintf("trust %.2f of 1: %s", s.Trust, s.Why))
	}
}

// printFindings prints what running was caught at, and where it is going.
func printFindings(page *output.Page, f evidence.Findings) {
	if f.Empty() && len(f.Forecasts) == 0 {
		return
	}
	page.Heading("Seen of this run and of earlier ones of the same code")
	for _, c := range f.Contacts {
		page.Item(2, "listed", valueAt, fmt.Sprintf("%s, by %s as %s, confidence %.2f", c.Destination, c.Feed, c.Indicator, c.Confidence))
	}
	for _, t := range f.Techniques {
		page.Item(2, "attack pattern", valueAt, fmt.Sprintf("%s %s: %s, confidence %.2f", t.ID, t.Name, t.Why, t.Confidence))
	}
	for _, x := range f.Anomalies {
		page.Item(2, "anomaly", valueAt, fmt.Sprintf("%s %s: %s", output.Time(x.Time), x.Kind, x.Why))
	}
	for _, x := range f.Forecasts {
		page.Item(2, "forecast", valueAt, forecast(x))
	}
}

func forecast(f evidence.Forecast) string {
	value := func(v float64) string {
		if f.Resource == "memory" {
			return output.Bytes(int64(v))
		}
		return fmt.Sprintf("%.2f", v)
	}
	text := fmt.Sprintf("%s now %s", f.Resource, value(f.Now))
	if f.Bound > 0 {
		text += fmt.Sprintf(", in the next %s under %s (%s)", output.Age(f.Window), value(f.Bound), output.Percent(f.Coverage))
	}
	if f.Limit > 0 && f.Probability > 0 {
		text += fmt.Sprintf(", reaches its limit %s within %s with probability %.2f", value(f.Limit), output.Age(f.Horizon), f.Probability)
		if f.TimeToLimit > 0 {
			text += fmt.Sprintf(", probably in %s", f.TimeToLimit.Round(time.Second))
		}
	}
	return text
}

// printNode prints how busy the node was when it was decided.
func printNode(page *output.Page, d api.Decision) {
	l := d.Load
	if l == nil {
		return
	}
	page.Heading(fmt.Sprintf("Node: %.0f %% of %d processors, %.0f %% of the memory in use", 100*l.CPU, l.Cores, 100*l.Memory))
	for _, resource := range slices.Sorted(maps.Keys(l.Tight)) {
		page.Item(2, resource+" is short", valueAt, l.Tight[resource])
	}
}
