package workload

import (
	"encoding/binary"
	"errors"
	"time"
)

// Bounds of a Trace.
const (
	MaxTrace      = 2048 // entries; equal calls of one thread in a row share one
	maxTraceNames = 1024
)

// ErrBadTrace is returned by Trace.Calls for what no Trace holds.
var ErrBadTrace = errors.New("not a trace of system calls")

// Trace is the order in which watched calls were made, since the last observation that carried a Trace. Calls that the
// kernel allowed by itself are not in it.
type Trace struct {
	From  time.Time `json:"from"` // when it begins
	Names []string  `json:"names,omitempty"`
	// Packed holds the calls: for each the milliseconds since the one before, the thread, less the one before, the index of
	// the name, and how often it was repeated, as varints (the thread's difference signed).
	Packed []byte `json:"packed,omitempty"`
	Lost   uint64 `json:"lost,omitempty"` // calls for which there was no room
}

// Call is one watched call, or Count equal ones of a thread in a row.
type Call struct {
	At     time.Duration // since the Trace began, to the millisecond
	Thread uint32        // as the shim's PID namespace numbers it
	Name   string
	Count  int
}

// Add appends a call. Calls are added in order of time; beyond MaxTrace nothing is checked, so that the owner counts.
func (t *Trace) Add(previous, c Call) {
	name := uint64(len(t.Names))
	for i, n := range t.Names {
		if n == c.Name {
			name = uint64(i)
		}
	}
	if name == uint64(len(t.Names)) {
		t.Names = append(t.Names, c.Name)
	}
	t.Packed = binary.AppendUvarint(t.Packed, uint64(max(c.At-previous.At, 0)/time.Millisecond))
	t.Packed = binary.AppendVarint(t.Packed, int64(c.Thread)-int64(previous.Thread))
	t.Packed = binary.AppendUvarint(t.Packed, name)
	t.Packed = binary.AppendUvarint(t.Packed, uint64(c.Count))
}

// Calls returns the calls in order. It returns ErrBadTrace for more than MaxTrace of them, and for malformed ones.
func (t *Trace) Calls() ([]Call, error) {
	if t == nil {
		return nil, nil
	}
	if len(t.Names) > maxTraceNames {
		return nil, ErrBadTrace
	}
	var calls []Call
	var at, thread int64
	for b := t.Packed; len(b) > 0; {
		var v [4]int64
		for i := range v {
			n := 0
			if i == 1 {
				v[i], n = binary.Varint(b)
			} else {
				var u uint64
				u, n = binary.Uvarint(b)
				v[i] = int64(min(u, 1<<40))
			}
			if n <= 0 {
				return nil, ErrBadTrace
			}
			b = b[n:]
		}
		at, thread = at+v[0], thread+min(max(v[1], -1<<33), 1<<33)
		if len(calls) >= MaxTrace || at > 1<<40 || thread < 0 || thread >= 1<<32 ||
			v[2] >= int64(len(t.Names)) || v[3] < 1 || v[3] > 1<<32 {
			return nil, ErrBadTrace
		}
		calls = append(calls, Call{
			At: time.Duration(at) * time.Millisecond, Thread: uint32(thread), Name: t.Names[v[2]], Count: int(v[3]),
		})
	}
	return calls, nil
}
