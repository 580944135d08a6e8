package anomaly

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// StateVersion is the version of a Baseline's State. Raise it when a reader of the old one would misread the new. Version 1 had Scores on another scale.
const StateVersion = 2

// ErrState is in the chain of the error for a State that no Baseline wrote.
var ErrState = errors.New("not the state of an anomaly baseline")

type baselineState struct {
	Version      int          `json:"version"`
	Sequence     packed       `json:"sequence"`
	ScoreHours   float64      `json:"score_hours"`
	Scores       []float64    `json:"scores,omitempty"`
	Mix          packed       `json:"mix"`
	Destinations noveltyState `json:"destinations"`
	Programs     noveltyState `json:"programs"`
}

// packed is names and lists of numbers; each list is of varints.
type packed struct {
	Names []string `json:"names,omitempty"`
	Lists [][]byte `json:"lists,omitempty"`
}

// State returns what b knows, as JSON: to be kept, or shipped as a prior to other nodes.
func (b *Baseline) State() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := baselineState{
		Version:  StateVersion,
		Sequence: packed{Names: b.sequence.names[1:]}, ScoreHours: b.scores.hours, Scores: b.scores.top,
		Mix:          packed{Names: b.mix.names},
		Destinations: b.destinations.state(), Programs: b.programs.state(),
	}
	for _, t := range b.sequence.traces {
		var list []byte
		for _, c := range t {
			list = binary.AppendUvarint(list, uint64(c))
		}
		s.Sequence.Lists = append(s.Sequence.Lists, list)
	}
	for _, segment := range b.mix.segments {
		var list []byte
		for _, u := range segment {
			list = binary.AppendUvarint(list, uint64(len(u)))
			for _, c := range u {
				list = binary.AppendUvarint(binary.AppendUvarint(list, uint64(c.Name)), uint64(c.Count))
			}
		}
		s.Mix.Lists = append(s.Mix.Lists, list)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("state of an anomaly baseline: %w", err)
	}
	return data, nil
}

// Restore returns the Baseline that State told of. Its error wraps ErrState; data may come from anywhere.
func Restore(data []byte) (*Baseline, error) {
	var s baselineState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	switch s.Version {
	case StateVersion:
	case 1:
		s.Scores, s.ScoreHours = nil, 0
	default:
		return nil, fmt.Errorf("%w: version %d is unknown here", ErrState, s.Version)
	}
	b := NewBaseline()
	if err := errors.Join(b.sequence.restore(s.Sequence), b.mix.restore(s.Mix)); err != nil {
		return nil, err
	}
	b.scores.Add(finite(s.ScoreHours), s.Scores...)
	b.destinations.restore(s.Destinations)
	b.programs.restore(s.Programs)
	return b, nil
}

func (s *Sequence) restore(p packed) error {
	if len(p.Names) >= maxNames {
		return fmt.Errorf("%w: %d names of calls", ErrState, len(p.Names))
	}
	for _, name := range p.Names {
		if _, twice := s.ids[name]; twice || len(name) > maxTraceNameLen {
			return fmt.Errorf("%w: the name %.40q", ErrState, name)
		}
		s.ids[name], s.names = uint16(len(s.names)), append(s.names, name)
	}
	for _, list := range p.Lists {
		numbers, err := numbersOf(list, uint64(len(s.names)-1))
		if err != nil {
			return err
		}
		if len(numbers) > maxTraceLen || s.length+len(numbers) > maxSequenceLen {
			return fmt.Errorf("%w: too many calls", ErrState)
		}
		calls := make([]uint16, len(numbers))
		for i, n := range numbers {
			calls[i] = uint16(n)
		}
		if len(calls) > 0 {
			s.learn(calls)
		}
	}
	return nil
}

func (m *Mix) restore(p packed) error {
	if len(p.Names) > maxMixNames || len(p.Lists) > maxSegments {
		return fmt.Errorf("%w: %d names of calls in %d segments", ErrState, len(p.Names), len(p.Lists))
	}
	for _, name := range p.Names {
		if _, twice := m.ids[name]; twice || len(name) > maxTraceNameLen {
			return fmt.Errorf("%w: the name %.40q", ErrState, name)
		}
		m.ids[name], m.names = uint16(len(m.names)), append(m.names, name)
	}
	for _, list := range p.Lists {
		numbers, err := numbersOf(list, maxMixCount)
		if err != nil {
			return err
		}
		segment, err := m.segmentOf(numbers)
		if err != nil {
			return err
		}
		m.learnSegment(segment)
	}
	return nil
}

func (m *Mix) segmentOf(numbers []uint64) ([]unit, error) {
	var segment []unit
	for len(numbers) > 0 {
		n := numbers[0]
		numbers = numbers[1:]
		if n > uint64(len(m.names)) || uint64(len(numbers)) < 2*n || len(segment) >= segmentRows/unitRows {
			return nil, fmt.Errorf("%w: a segment ends early or too late", ErrState)
		}
		u := make(unit, 0, n)
		for pair := range slices.Chunk(numbers[:2*n], 2) {
			if pair[0] >= uint64(len(m.names)) || len(u) > 0 && uint16(pair[0]) <= u[len(u)-1].Name {
				return nil, fmt.Errorf("%w: call %d of %d", ErrState, pair[0], len(m.names))
			}
			u = append(u, mixCount{uint16(pair[0]), uint32(pair[1])})
		}
		segment, numbers = append(segment, u), numbers[2*n:]
	}
	return segment, nil
}

// numbersOf reads varints up to a most.
func numbersOf(list []byte, most uint64) ([]uint64, error) {
	var out []uint64
	for len(list) > 0 {
		v, n := binary.Uvarint(list)
		if n <= 0 || v > most {
			return nil, fmt.Errorf("%w: a number is too large or cut", ErrState)
		}
		out, list = append(out, v), list[n:]
	}
	return out, nil
}
