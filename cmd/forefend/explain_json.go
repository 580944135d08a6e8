package main

import (
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// decisionForPrograms is a Decision whose values can be read without knowing the scales, and without the supervisor's
// binary table.
type decisionForPrograms struct {
	api.Decision
	Effective effectiveForPrograms `json:"effective"`
	Table     *struct{}            `json:"table,omitempty"`
}

// explanation is what explain prints for programs.
type explanation struct {
	decisionForPrograms
	Agent *api.Agent `json:"agent,omitempty"` // of one that runs
}

type effectiveForPrograms struct {
	Version int                `json:"version"`
	Fields  []fieldForPrograms `json:"fields"`
}

type fieldForPrograms struct {
	policy.Field
	Text string            `json:"text,omitempty"`
	Lost []lostForPrograms `json:"lost,omitempty"`
}

type lostForPrograms struct {
	policy.Lost
	Text string `json:"text"`
}

func forPrograms(d api.Decision) decisionForPrograms {
	out := decisionForPrograms{Decision: d, Effective: effectiveForPrograms{Version: d.Effective.Version, Fields: []fieldForPrograms{}}}
	for _, f := range d.Effective.Fields {
		field := fieldForPrograms{Field: f}
		if !f.NoValue {
			field.Text = f.Key.Format(f.Value)
		}
		for _, l := range f.Lost {
			field.Lost = append(field.Lost, lostForPrograms{Lost: l, Text: f.Key.Format(l.Value)})
		}
		out.Effective.Fields = append(out.Effective.Fields, field)
	}
	return out
}
