package api

import (
	"encoding/json"
	"fmt"

	"forefend.dev/forefend/runtime/workload"
)

// Bounds of one ObserveRequest. A shim reports at most 512 events at once, and
// one observation and one decision for each container of its pod.
const (
	MaxEvents       = 1024
	MaxObservations = 1024
)

// UnmarshalJSON implements json.Unmarshaler. It counts before it decodes: three
// bytes of text ("{},") would become an Observation of half a kilobyte.
func (r *ObserveRequest) UnmarshalJSON(text []byte) error {
	var lists struct {
		Version      int               `json:"version"`
		Oldest       int               `json:"oldest"`
		Observations []json.RawMessage `json:"observations"`
		Events       []json.RawMessage `json:"events"`
		Lost         uint64            `json:"lost"`
		Changed      []json.RawMessage `json:"changed"`
	}
	if err := json.Unmarshal(text, &lists); err != nil {
		return err
	}
	if len(lists.Events) > MaxEvents || max(len(lists.Observations), len(lists.Changed)) > MaxObservations {
		return fmt.Errorf("%d events, %d observations and %d decisions, the most are %d, %d and %d",
			len(lists.Events), len(lists.Observations), len(lists.Changed), MaxEvents, MaxObservations, MaxObservations)
	}
	*r = ObserveRequest{Version: lists.Version, Oldest: lists.Oldest, Lost: lists.Lost}
	for _, raw := range lists.Observations {
		var o workload.Observation
		if err := json.Unmarshal(raw, &o); err != nil {
			return err
		}
		r.Observations = append(r.Observations, o)
	}
	for _, raw := range lists.Events {
		var e Event
		if err := json.Unmarshal(raw, &e); err != nil {
			return err
		}
		r.Events = append(r.Events, e)
	}
	for _, raw := range lists.Changed {
		var d Decision
		if err := json.Unmarshal(raw, &d); err != nil {
			return err
		}
		r.Changed = append(r.Changed, d)
	}
	return nil
}
