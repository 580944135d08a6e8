package object

import (
	"runtime/debug"
	"slices"
	"sync"

	"forefend.dev/forefend/predictor/scan/code"
)

// swept is what one goroutine found in a run of functions.
type swept struct {
	first   []uint32
	edges   []int32
	taken   []int32
	makers  []int32
	foreign []int32
	bad     []int32   // what nothing but our division calls a function, and holds what is no instruction: data
	endless []int32   // functions that do not come back
	falls   []int32   // functions that run into the next
	texts   []textRef // string constants of Go code
}

// sweep decodes all functions once, in parallel, and collects their edges.
func (b *builder) sweep() {
	n := len(b.starts)
	// More pieces than workers: functions differ in size.
	pieces := min(max(1, n/512), 64)
	results := make([]swept, pieces)
	var wg sync.WaitGroup
	next := make(chan int, pieces)
	for i := range pieces {
		next <- i
	}
	close(next)
	for range workers() {
		wg.Go(func() {
			defer guard(b)
			debug.SetPanicOnFault(true)
			for i := range next {
				s := sweeper{b: b, out: &results[i]}
				for fn := n * i / pieces; fn < n*(i+1)/pieces; fn++ {
					s.function(int32(fn))
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, r := range results {
		total += len(r.edges)
	}
	b.obj.First, b.obj.Edges = make([]uint32, 0, n+1), make([]int32, 0, total)
	for _, r := range results {
		offset := uint32(len(b.obj.Edges))
		for _, f := range r.first {
			b.obj.First = append(b.obj.First, f+offset)
		}
		b.obj.Edges = append(b.obj.Edges, r.edges...)
		b.makers = append(b.makers, r.makers...)
		for _, i := range r.taken {
			b.taken[i] = true
		}
		for _, i := range r.bad {
			b.data[i] = true
		}
		for _, i := range r.falls {
			b.falls[i] = true
		}
		for _, i := range r.endless {
			b.endless[i] = true
		}
		for _, i := range r.foreign {
			if b.data[i] {
				continue
			}
			b.unknown(i, b.starts[i], OtherNumbering)
		}
		b.pool.refs = append(b.pool.refs, r.texts...)
	}
	b.obj.First = append(b.obj.First, uint32(len(b.obj.Edges)))
}

// OtherNumbering is what cannot be followed where code calls the kernel as another architecture's program does.
const OtherNumbering = "calls the kernel by another architecture's numbers"

// guard keeps a fault (the file was cut short while it is mapped) to the goroutine; the functions it did not decode are
// missing, which the reader sees.
func guard(b *builder) {
	if r := recover(); r != nil {
		b.fail(r)
	}
}

type sweeper struct {
	b    *builder
	out  *swept
	seen []int32 // edges of the present function
	fn   int32
	page [32]int64
	has  uint32 // registers with a page address
}

func (s *sweeper) edge(e int32) {
	if n := len(s.seen); n > 16 {
		if s.seen[n-1] == e || s.seen[n-2] == e {
			return
		}
	} else if slices.Contains(s.seen, e) {
		return
	}
	s.seen = append(s.seen, e)
}

// function decodes one.
func (s *sweeper) function(fn int32) {
	b := s.b
	start, end := b.starts[fn], b.ends[fn]
	text := b.at(start)
	text = text[:min(uint64(len(text)), end-start)]
	s.out.first = append(s.out.first, uint32(len(s.out.edges)))
	s.seen, s.has, s.fn = s.seen[:0], 0, fn
	makes, foreign, bad, returns := false, false, false, false
	var in code.Inst
	var last code.Op
	for pc := start; len(text) > 0; {
		b.decode(text, pc, &in)
		n := min(int(in.Len), len(text))
		switch in.Op {
		case code.Syscall:
			makes = true
		case code.Foreign:
			foreign = true
		case code.Bad:
			bad = true
		case code.Return, code.JumpReg:
			returns = true
		default:
			s.instruction(&in, pc, start, end)
			returns = returns || in.Op == code.JumpMem || in.Op == code.Jump && (uint64(in.Imm) < start || uint64(in.Imm) >= end)
		}
		if in.Op != code.Other || in.Clobber != 0 || last != code.Jump && last != code.Return && last != code.Trap && last != code.JumpReg && last != code.JumpMem {
			last = in.Op // but not the padding behind the last
		}
		if b.obj.Go {
			s.goText(&in, fn)
		}
		text, pc = text[n:], pc+uint64(n)
	}
	if b.fallsThrough(fn, last) {
		s.edge(fn + 1)
		if last != code.Call && last != code.CallReg && last != code.CallMem {
			s.out.falls = append(s.out.falls, fn)
		}
	}
	if bad && !b.framed[fn] {
		s.out.bad = append(s.out.bad, fn)
	}
	if !returns && !bad && !b.fallsThrough(fn, last) {
		s.out.endless = append(s.out.endless, fn)
	}
	if makes {
		s.out.makers = append(s.out.makers, fn)
	}
	if foreign {
		s.out.foreign = append(s.out.foreign, fn)
	}
	slices.Sort(s.seen)
	s.out.edges = append(s.out.edges, slices.Compact(s.seen)...)
}

// fallsThrough tells whether control may run from fn into the next function.
func (b *builder) fallsThrough(fn int32, last code.Op) bool {
	if int(fn)+1 >= len(b.starts) || b.starts[fn+1] != b.ends[fn] {
		return false
	}
	switch last {
	case code.Jump, code.JumpReg, code.JumpMem, code.Return, code.Trap:
		return false
	case code.Call, code.CallReg, code.CallMem: // of what does not return, when the function ends behind it
		return !b.framed[fn+1] && !b.closed[fn]
	}
	return true
}

func (s *sweeper) instruction(in *code.Inst, pc, start, end uint64) {
	b := s.b
	switch in.Op {
	case code.Call, code.Jump, code.Branch:
		if to := uint64(in.Imm); to < start || to >= end || in.Op == code.Call {
			s.target(to)
		}
	case code.Addr:
		s.address(uint64(in.Imm))
	case code.Const, code.PushConst, code.StoreConst:
		switch {
		case b.machine == machineARM64 && in.Op == code.Const:
			s.page[in.Dst&31] = in.Imm
			s.has |= 1 << (in.Dst & 31)
			return
		case b.fixed && in.Imm > 0xfff:
			s.constant(uint64(in.Imm))
		}
	case code.LoadAddr, code.CallMem, code.JumpMem:
		s.slot(uint64(in.Imm))
	case code.Add, code.Load:
		if b.machine == machineARM64 && in.Src < 31 && s.has>>in.Src&1 == 1 {
			at := uint64(s.page[in.Src] + in.Imm)
			if in.Op == code.Load {
				s.slot(at)
			} else {
				s.address(at)
				s.goAddress(at)
			}
		}
	}
	if b.machine == machineARM64 && in.Dst < 32 && in.Op != code.Store && in.Op != code.StoreConst {
		s.has &^= 1 << in.Dst
	}
}

// target is an edge to code.
func (s *sweeper) target(to uint64) {
	if i, ok := s.b.stub(to); ok {
		s.edge(^i)
		return
	}
	if i := s.b.find(to); i >= 0 {
		s.edge(i)
	}
}

// address is an edge to code whose address is taken.
func (s *sweeper) address(at uint64) {
	if !s.b.executable(at) {
		return
	}
	if i, ok := s.b.stub(at); ok {
		s.edge(^i)
		return
	}
	if i := s.b.find(at); i >= 0 {
		s.edge(i)
		s.out.taken = append(s.out.taken, i)
	}
}

// constant is an address if it is exactly that of a function.
func (s *sweeper) constant(c uint64) {
	if !s.b.executable(c) {
		return
	}
	if i := s.b.find(c); i >= 0 && s.b.begins(i, c) {
		s.address(c)
		return
	}
	if i, ok := s.b.stub(c); ok {
		s.edge(^i)
	}
}

func (s *sweeper) slot(at uint64) {
	if i, ok := s.b.slots[at]; ok {
		s.edge(^i)
	}
}
