package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"forefend.dev/forefend/predictor/anomaly"
	"forefend.dev/forefend/runtime/workload"
)

const (
	// version is that of what WriteTo writes. Raise it when a reader of the old form would misread it.
	version = 1
	// maxState bounds one baseline, maxStates all that are written or read.
	maxState  = 1 << 20
	maxStates = 64 << 20
)

// errStates is in the chain of every error about what ReadFrom is given.
var errStates = errors.New("not baselines of a monitor")

// baselineLocked finds or begins the baseline of a workload: the same command in the same image, else, where no image is
// known, the same program. m.mu is held.
func (m *Monitor) baselineLocked(keys []workload.Key, now time.Time) *baseline {
	name := ""
	if len(keys) > 0 && keys[0].Level <= workload.LevelExecutable {
		name = keys[0].String()
	}
	b := m.baselines[name]
	if b == nil {
		b = &baseline{}
		if name != "" { // else nobody will find it again
			room(m.baselines, maxBaselines, func(b *baseline) time.Time { return b.heard })
			m.baselines[name] = b
		}
	}
	if b.model == nil {
		if model, err := anomaly.Restore(b.state); err == nil {
			b.model = model
		} else {
			b.model = anomaly.NewBaseline()
		}
		b.state = nil
	}
	b.heard = now
	return b
}

// learn teaches a run's baseline. r.mu is held.
func (m *Monitor) learn(r *run, now time.Time) {
	r.baseline.model.Learn(r.watch)
	r.learned = now
	m.mu.Lock()
	r.baseline.dirty = true
	m.mu.Unlock()
}

// states is the form in which baselines are kept.
type states struct {
	Version   int              `json:"version"`
	Baselines map[string]state `json:"baselines"`
}

type state struct {
	Heard time.Time       `json:"heard"`
	Model json.RawMessage `json:"model"`
}

// Save writes the baselines with write, unless nothing was learned since the last time.
func (m *Monitor) Save(write func(io.WriterTo) error) error {
	m.mu.Lock()
	changed := false
	kept := make(map[string]*baseline, len(m.baselines))
	for name, b := range m.baselines {
		changed = changed || b.dirty
		kept[name] = &baseline{model: b.model, state: b.state, heard: b.heard}
		b.dirty = false
	}
	m.mu.Unlock()
	if !changed {
		return nil
	}
	out := states{Version: version, Baselines: make(map[string]state, len(kept))}
	total := 0
	for name, b := range kept { // without m.mu: a model has a lock of its own
		body := b.state
		if b.model != nil {
			var err error
			if body, err = b.model.State(); err != nil {
				return fmt.Errorf("keep the baselines: %w", err)
			}
		}
		if len(body) == 0 || len(body) > maxState || total+len(body) > maxStates/2 {
			continue // it is learned anew
		}
		total += len(body)
		out.Baselines[name] = state{b.heard, body}
	}
	body, err := json.Marshal(out)
	if err == nil {
		err = write(bytesOf(body))
	}
	if err != nil {
		return fmt.Errorf("keep the baselines: %w", err)
	}
	return nil
}

type bytesOf []byte

func (b bytesOf) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

// Load takes in what Save wrote. A baseline is decoded when its workload runs again, a damaged one is learned anew.
func (m *Monitor) Load(r io.Reader) error {
	body, err := io.ReadAll(io.LimitReader(r, maxStates+1))
	if err != nil {
		return err
	}
	var in states
	if len(body) > maxStates {
		return fmt.Errorf("more than %d bytes: %w", maxStates, errStates)
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return fmt.Errorf("%w: %w", errStates, err)
	}
	if in.Version != version || len(in.Baselines) > maxBaselines {
		return fmt.Errorf("version %d with %d baselines: %w", in.Version, len(in.Baselines), errStates)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, s := range in.Baselines {
		if len(s.Model) <= maxState && m.baselines[name] == nil {
			m.baselines[name] = &baseline{state: s.Model, heard: s.Heard}
		}
	}
	return nil
}
