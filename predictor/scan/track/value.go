// Package track follows constants, addresses and arguments through one function, so that the number of a system call, or
// the name of a program that is executed, is known where it is used. It is a forward data-flow analysis over basic blocks:
// what is not certain becomes Unknown, never a guess. Memory is followed in the function's own stack slots only.
package track

import (
	"slices"

	"forefend.dev/forefend/predictor/scan/code"
)

// most is how many constants a value may be one of, before it is unknown.
const most = 8

// Value is what is known of a register: the zero value is "not reached"; else one of Consts, or one of the function's
// arguments, or anything.
type Value struct {
	Consts  []int64
	Args    uint64 // registers at entry by bit; from bit StackArg on: stack arguments
	Unknown bool
	Memory  bool // Unknown because it came from memory
}

// StackArg is the bit of the first argument that travels on the stack.
const StackArg = 32

func constant(c int64) Value { return Value{Consts: []int64{c}} }

var unknown = Value{Unknown: true}

// join is what holds when either holds.
func (v Value) join(w Value) Value {
	switch {
	case v.Unknown || w.Unknown:
		return Value{Unknown: true, Memory: v.Memory && w.Memory}
	case w.same(v) || w.empty():
		return v
	case v.empty():
		return w
	}
	out := Value{Args: v.Args | w.Args, Consts: slices.Clone(v.Consts)}
	for _, c := range w.Consts {
		if !slices.Contains(out.Consts, c) {
			out.Consts = append(out.Consts, c)
		}
	}
	if len(out.Consts) > most {
		return unknown
	}
	return out
}

func (v Value) empty() bool { return !v.Unknown && v.Args == 0 && len(v.Consts) == 0 }

func (v Value) same(w Value) bool {
	if v.Unknown != w.Unknown || v.Args != w.Args || v.Memory != w.Memory || len(v.Consts) != len(w.Consts) {
		return false
	}
	for _, c := range v.Consts {
		if !slices.Contains(w.Consts, c) {
			return false
		}
	}
	return true
}

// add is v plus a constant; an argument plus something is not followed.
func (v Value) add(n int64, narrow bool) Value {
	if n == 0 {
		return v
	}
	if v.Unknown || v.Args != 0 {
		return unknown
	}
	out := Value{Consts: make([]int64, len(v.Consts))}
	for i, c := range v.Consts {
		out.Consts[i] = c + n
		if narrow {
			out.Consts[i] = int64(uint32(c + n))
		}
	}
	return out
}

// and is v with the bits of a mask.
func (v Value) and(mask int64) Value {
	if v.Unknown || v.Args != 0 {
		return unknown
	}
	out := Value{}
	for _, c := range v.Consts {
		if !slices.Contains(out.Consts, c&mask) {
			out.Consts = append(out.Consts, c&mask)
		}
	}
	return out
}

// state is what is known at one point.
type state struct {
	reached bool
	regs    []Value
	depth   int64 // of the stack pointer, relative to entry
	lost    bool  // depth is not known
	slots   map[int64]Value
}

func (s *state) clone() state {
	out := *s
	out.regs = slices.Clone(s.regs)
	out.slots = make(map[int64]Value, len(s.slots))
	for k, v := range s.slots {
		out.slots[k] = v
	}
	return out
}

// merge joins t into s and tells whether s changed.
func (s *state) merge(t *state) bool {
	if !s.reached {
		*s = t.clone()
		s.reached = true
		return true
	}
	changed := false
	for i, v := range s.regs {
		if j := v.join(t.regs[i]); !j.same(v) {
			s.regs[i], changed = j, true
		}
	}
	if !s.lost && (t.lost || t.depth != s.depth) {
		s.lost, s.slots, changed = true, map[int64]Value{}, true
	}
	for k, v := range s.slots {
		w, ok := t.slots[k]
		switch j := v.join(w); {
		case !ok:
			delete(s.slots, k)
			changed = true
		case !j.same(v):
			s.slots[k], changed = j, true
		}
	}
	return changed
}

func (s *state) get(r code.Reg) Value {
	if int(r) >= len(s.regs) {
		return unknown
	}
	return s.regs[r]
}

func (s *state) set(r code.Reg, v Value) {
	if int(r) < len(s.regs) {
		s.regs[r] = v
	}
}
