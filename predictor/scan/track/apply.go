package track

import "forefend.dev/forefend/predictor/scan/code"

// apply changes st as step i does.
func (a *analysis) apply(st *state, i int) {
	s := &a.fn.Steps[i]
	conv := a.fn.Convention
	if s.Clobber != 0 {
		a.clobber(st, s.Clobber)
	}
	switch s.Op {
	case code.Const:
		c := s.Imm
		if s.Narrow {
			c = int64(uint32(c))
		}
		a.set(st, s.Dst, constant(c))
	case code.Addr:
		a.set(st, s.Dst, constant(s.Imm))
	case code.Move:
		a.move(st, s)
	case code.CondMove:
		a.set(st, s.Dst, st.get(s.Dst).join(st.get(s.Src)))
	case code.Add:
		a.add2(st, s)
	case code.And:
		a.set(st, s.Dst, st.get(s.Dst).and(s.Imm))
	case code.Byte:
		a.set(st, s.Dst, st.get(s.Dst).and(^0xff).add(s.Imm&0xff, false))
	case code.Choice:
		a.set(st, s.Dst, constant(0).join(constant(s.Imm)))
	case code.Load:
		v := Value{Unknown: true, Memory: true}
		if at, ok := a.slot(st, s.Src, s.Imm); ok {
			if kept, ok := st.slots[at]; ok {
				v = kept
			}
		} else if base := st.get(s.Src); len(base.Consts) == 1 && base.Args == 0 {
			v = a.variable(base.Consts[0]+s.Imm, s)
		}
		a.set(st, s.Dst, v)
	case code.LoadAddr:
		a.set(st, s.Dst, a.variable(s.Imm, s))
	case code.Store:
		a.store(st, s.Dst, s.Imm, st.get(s.Src))
		if s.Disp != 0 {
			a.store(st, s.Dst, s.Imm+int64(s.Disp), unknown)
		}
	case code.StoreConst:
		a.store(st, s.Dst, int64(s.Disp), constant(s.Imm))
	case code.Push, code.PushConst:
		st.depth -= 8
		v := constant(s.Imm)
		if s.Op == code.Push {
			v = st.get(s.Src)
		}
		a.store(st, conv.Stack, 0, v)
	case code.Pop:
		v := unknown
		if kept, ok := st.slots[st.depth]; ok && !st.lost {
			v = kept
		}
		a.set(st, s.Dst, v)
		st.depth += 8
	case code.Call, code.CallMem, code.CallReg:
		a.call(st)
	case code.Syscall, code.Foreign:
		a.clobber(st, conv.Kernel)
	}
}

// variable is what a load from addr gives: the variable's initial value if it may be a system call's number
// (Go keeps a few in variables that nobody changes).
func (a *analysis) variable(addr int64, s *Step) Value {
	bytes := 8
	if s.Narrow {
		bytes = 4
	}
	if a.fn.Initial != nil && s.Dst != code.None {
		if c, ok := a.fn.Initial(uint64(addr), bytes); ok && c > 0 && c < 1024 {
			return constant(c)
		}
	}
	return Value{Unknown: true, Memory: true}
}

func (a *analysis) clobber(st *state, mask uint32) {
	for r := range st.regs {
		if mask>>r&1 == 1 {
			a.set(st, code.Reg(r), unknown)
		}
	}
}

// set gives r a value; a stack pointer that comes from elsewhere is lost.
func (a *analysis) set(st *state, r code.Reg, v Value) {
	if r == a.fn.Convention.Stack {
		st.lost, st.slots = true, map[int64]Value{}
		return
	}
	st.set(r, v)
}

// frame is a value that stands for the stack pointer, kept in another register as an offset from entry.
const frame = int64(-1) << 62

func (a *analysis) move(st *state, s *Step) {
	stack := a.fn.Convention.Stack
	switch {
	case s.Src == stack && !st.lost:
		st.set(s.Dst, constant(frame+st.depth))
	case s.Src == stack:
		st.set(s.Dst, unknown)
	case s.Dst == stack:
		a.restore(st, st.get(s.Src), 0)
	case s.Narrow:
		st.set(s.Dst, st.get(s.Src).narrowed())
	default:
		st.set(s.Dst, st.get(s.Src))
	}
}

// narrowed cuts constants to 32 bits; an argument keeps its small numbers.
func (v Value) narrowed() Value {
	for i, c := range v.Consts {
		if c != int64(uint32(c)) {
			out := Value{Args: v.Args, Consts: append([]int64(nil), v.Consts...)}
			for j := i; j < len(out.Consts); j++ {
				out.Consts[j] = int64(uint32(out.Consts[j]))
			}
			return out
		}
	}
	return v
}

func (a *analysis) restore(st *state, v Value, n int64) {
	if !v.Unknown && v.Args == 0 && len(v.Consts) == 1 && v.Consts[0] < frame/2 {
		st.depth, st.lost = v.Consts[0]-frame+n, false
		return
	}
	st.lost, st.slots = true, map[int64]Value{}
}

func (a *analysis) add2(st *state, s *Step) {
	stack := a.fn.Convention.Stack
	switch {
	case s.Dst == stack && s.Src == stack:
		st.depth += s.Imm
	case s.Dst == stack:
		a.restore(st, st.get(s.Src), s.Imm)
	case s.Src == stack && st.lost:
		st.set(s.Dst, unknown)
	case s.Src == stack:
		st.set(s.Dst, constant(frame+st.depth+s.Imm))
		a.escape(st.depth + s.Imm)
	default:
		st.set(s.Dst, st.get(s.Src).add(s.Imm, s.Narrow))
	}
}

// escape remembers that somebody else may change a slot.
func (a *analysis) escape(at int64) {
	for _, e := range a.escaped {
		if e == at {
			return
		}
	}
	if len(a.escaped) < maxSlots {
		a.escaped = append(a.escaped, at)
	}
}

// slot is the stack slot that base + n names.
func (a *analysis) slot(st *state, base code.Reg, n int64) (int64, bool) {
	if base == a.fn.Convention.Stack {
		return st.depth + n, !st.lost
	}
	v := st.get(base)
	if !v.Unknown && v.Args == 0 && len(v.Consts) == 1 && v.Consts[0] < frame/2 {
		return v.Consts[0] - frame + n, !st.lost
	}
	return 0, false
}

func (a *analysis) store(st *state, base code.Reg, n int64, v Value) {
	at, ok := a.slot(st, base, n)
	if !ok || st.lost {
		return
	}
	delete(st.slots, at-4) // whatever overlaps
	delete(st.slots, at+4)
	if len(st.slots) >= maxSlots {
		return
	}
	if v.Unknown {
		delete(st.slots, at)
		return
	}
	st.slots[at] = v
}

// call destroys what the convention says, and the slots whose address was given away.
func (a *analysis) call(st *state) {
	mask := a.fn.Convention.Volatile
	if a.fn.KeepsNone {
		mask = 0xffffffff
	}
	a.clobber(st, mask&^(1<<a.fn.Convention.Stack))
	for _, at := range a.escaped {
		for n := int64(-4); n < 16; n += 4 {
			delete(st.slots, at+n)
		}
	}
}
