package track

import (
	"slices"

	"forefend.dev/forefend/predictor/scan/code"
)

// Bounds of one function; a longer one is not followed, and all its values are unknown.
const (
	maxInstructions = 40_000
	maxSlots        = 1024
	maxVisits       = 100 // of a block, on average
)

// Step is one instruction with its address.
type Step struct {
	PC uint64
	code.Inst
}

// Function is one to be followed.
type Function struct {
	Steps      []Step
	Convention *code.Convention
	Initial    func(addr uint64, bytes int) (int64, bool) // initial value of a variable; nil: none is known
	NoReturn   func(*Step) bool                           // calls that do not come back; nil: all may
	KeepsNone  bool                                       // calls destroy every register but the stack pointer, as in Go
}

// Context is what is known before a step is executed.
type Context struct {
	fn *Function
	st *state
}

// Register is the value of r.
func (c Context) Register(r code.Reg) Value { return c.st.get(r) }

// Argument is the value that a called function will find as its argument bit (see Value.Args).
func (c Context) Argument(bit int) Value {
	if bit < StackArg {
		return c.st.get(code.Reg(bit))
	}
	if v, ok := c.st.slots[c.st.depth+int64(bit-StackArg)*8]; ok && !c.st.lost {
		return v
	}
	return unknown
}

// Visit calls at with what is known before each step that want selects.
func (f *Function) Visit(want func(*Step) bool, at func(*Step, Context)) {
	f.visit(want, at)
}

func (f *Function) visit(want func(*Step) bool, at func(*Step, Context)) {
	if len(f.Steps) > maxInstructions {
		st := f.anything()
		for i := range f.Steps {
			if want(&f.Steps[i]) {
				at(&f.Steps[i], Context{f, &st})
			}
		}
		return
	}
	a := newAnalysis(f)
	a.run()
	for _, b := range a.blocks {
		interesting := false
		for i := b.from; i < b.to && !interesting; i++ {
			interesting = want(&f.Steps[i])
		}
		if !interesting {
			continue
		}
		st := b.in.clone()
		if !b.in.reached {
			st = f.anything()
		}
		for i := b.from; i < b.to; i++ {
			if s := &f.Steps[i]; want(s) {
				at(s, Context{f, &st})
			}
			a.apply(&st, i)
		}
	}
}

func (f *Function) anything() state {
	st := state{reached: true, lost: true, regs: make([]Value, f.Convention.Registers), slots: map[int64]Value{}}
	for i := range st.regs {
		st.regs[i] = unknown
	}
	return st
}

func (f *Function) entry() state {
	st := state{reached: true, regs: make([]Value, f.Convention.Registers), slots: map[int64]Value{}}
	for i := range st.regs {
		st.regs[i] = Value{Args: 1 << i}
	}
	for i := range int64(8) {
		st.slots[f.Convention.Pushes+i*8] = Value{Args: 1 << (StackArg + i)}
	}
	return st
}

// block is a run of steps that is entered at its first and left at its last.
type block struct {
	from, to int
	in       state
	known    bool // something leads to it
	visits   int
}

type analysis struct {
	fn      *Function
	blocks  []*block
	start   map[uint64]*block
	work    []*block
	budget  int     // visits of blocks that are left; then nothing is known any more
	escaped []int64 // stack slots whose address is taken
	tables  *state  // joined at all jumps through tables
}

func newAnalysis(f *Function) *analysis {
	a := &analysis{fn: f, start: make(map[uint64]*block)}
	leaders := map[uint64]bool{}
	for i := range f.Steps {
		s := &f.Steps[i]
		switch s.Op {
		case code.Jump, code.Branch:
			leaders[uint64(s.Imm)] = true
			leaders[s.PC+uint64(s.Len)] = true
		case code.JumpReg, code.JumpMem, code.Return, code.Trap:
			leaders[s.PC+uint64(s.Len)] = true
		case code.Call, code.CallMem:
			if f.NoReturn != nil && f.NoReturn(s) {
				leaders[s.PC+uint64(s.Len)] = true
			}
		}
	}
	from := 0
	for i := range f.Steps {
		if i > from && leaders[f.Steps[i].PC] {
			a.add(from, i)
			from = i
		}
	}
	if from < len(f.Steps) {
		a.add(from, len(f.Steps))
	}
	return a
}

func (a *analysis) add(from, to int) {
	b := &block{from: from, to: to}
	a.blocks = append(a.blocks, b)
	a.start[a.fn.Steps[from].PC] = b
}

func (a *analysis) run() {
	if len(a.blocks) == 0 {
		return
	}
	entry := a.fn.entry()
	a.blocks[0].in.merge(&entry)
	a.blocks[0].known = true
	a.budget = 30*len(a.blocks) + 1000
	a.push(a.blocks[0])
	a.drain()
	// What only a table, or an exception, leads to.
	for i, b := range a.blocks {
		if b.in.reached || a.padding(b) {
			continue
		}
		st := a.fn.anything()
		if a.tables != nil {
			st = a.tables.clone()
		}
		a.blocks[i].in.merge(&st)
		a.push(b)
		a.drain()
	}
}

// padding tells whether a block does nothing: it only aligns the next.
func (a *analysis) padding(b *block) bool {
	for i := b.from; i < b.to; i++ {
		if s := &a.fn.Steps[i]; s.Op != code.Other && s.Op != code.Trap || s.Clobber != 0 {
			return false
		}
	}
	return true
}

func (a *analysis) drain() {
	for len(a.work) > 0 {
		b := a.work[len(a.work)-1]
		a.work = a.work[:len(a.work)-1]
		a.budget--
		if b.visits++; b.visits > maxVisits || a.budget < 0 {
			any := a.fn.anything()
			if !b.in.merge(&any) {
				continue
			}
		}
		st := b.in.clone()
		for i := b.from; i < b.to; i++ {
			a.apply(&st, i)
		}
		a.leave(b, &st)
	}
}

// push keeps the work in the order of the code, the first block last, so that few blocks are seen before what leads to them.
func (a *analysis) push(b *block) {
	i, found := slices.BinarySearchFunc(a.work, b, func(x, y *block) int { return y.from - x.from })
	if !found {
		a.work = slices.Insert(a.work, i, b)
	}
}

func (a *analysis) leave(b *block, st *state) {
	last := &a.fn.Steps[b.to-1]
	next := last.PC + uint64(last.Len)
	switch last.Op {
	case code.Jump:
		a.flow(uint64(last.Imm), st)
	case code.Branch:
		taken, on := a.branch(b, st)
		a.flow(uint64(last.Imm), taken)
		a.flow(next, on)
	case code.JumpReg:
		if a.tables == nil {
			a.tables = &state{}
		}
		a.tables.merge(st)
	case code.JumpMem, code.Return, code.Trap:
	case code.Call, code.CallMem:
		if a.fn.NoReturn == nil || !a.fn.NoReturn(last) {
			a.flow(next, st)
		}
	default:
		a.flow(next, st)
	}
}

// branch is what holds where a branch goes, and behind it: a register may have been found to be zero.
func (a *analysis) branch(b *block, st *state) (taken, on *state) {
	if b.to-b.from < 2 {
		return st, st
	}
	last, test := &a.fn.Steps[b.to-1], &a.fn.Steps[b.to-2]
	if test.Op != code.Test || last.Disp != code.IfZero && last.Disp != code.IfNotZero {
		return st, st
	}
	zero := st.clone()
	zero.set(test.Dst, constant(0))
	if last.Disp == code.IfZero {
		return &zero, st
	}
	return st, &zero
}

func (a *analysis) flow(to uint64, st *state) {
	if b := a.start[to]; b != nil && b.in.merge(st) {
		a.push(b)
	}
}
