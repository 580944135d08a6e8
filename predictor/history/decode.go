package history

import (
	"encoding/json"
	"fmt"

	"forefend.dev/forefend/runtime/workload"
)

// decode reads an observation from a record's body.
func decode(body []byte) (*workload.Observation, error) {
	o := new(workload.Observation)
	if err := json.Unmarshal(body, o); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return o, validate(o)
}

// lean is an observation without its usage series, which the model has no use
// for and which takes a third of the time to read.
type lean struct {
	workload.Observation
	Usage struct {
		workload.Usage
		Series skipped `json:"series"`
	} `json:"usage"`
}

type skipped struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (skipped) UnmarshalJSON([]byte) error { return nil }

// decodeLean is decode without the usage series.
func decodeLean(body []byte) (*workload.Observation, error) {
	var l lean
	if err := json.Unmarshal(body, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	l.Observation.Usage = l.Usage.Usage
	return &l.Observation, validate(&l.Observation)
}
