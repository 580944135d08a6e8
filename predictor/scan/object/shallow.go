package object

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"

	"forefend.dev/forefend/predictor/scan/code"
	"forefend.dev/forefend/predictor/scan/track"
)

// maxWhole is how much code is followed function by function. Of bigger files (V8, LLVM, the JVM) nearly everything is
// reachable anyway: they count as one function that uses all imports, and only the functions around system calls, and
// around calls that get a name or a number, are decoded.
const maxWhole = 12 << 20

func (f *file) codeSize() (n uint64) {
	for _, s := range f.segments {
		if s.exec {
			n += uint64(len(s.data))
		}
	}
	return n
}

// shallow analyses a file that is too big to be followed.
func (b *builder) shallow(symbols []symbol) {
	low, high := ^uint64(0), uint64(0)
	for _, s := range b.segments {
		if s.exec {
			low, high = min(low, s.addr), max(high, s.addr+uint64(len(s.data)))
		}
	}
	b.layout = &layout{starts: []uint64{low}, ends: []uint64{high}, framed: []bool{true}, closed: []bool{true}}
	b.goNames = func(uint64) string { return "" }
	b.taken, b.data, b.endless, b.falls = make([]bool, 1), make([]bool, 1), make([]bool, 1), make([]bool, 1)
	b.obj.Starts = b.starts
	b.link(symbols)
	b.obj.Roots = []int32{0}
	b.special = specials(b.obj.Imports)
	edges := make([]int32, 0, len(b.obj.Imports))
	for i, name := range b.obj.Imports {
		if len(b.obj.Exports[name]) == 0 { // what it defines itself is reached already
			edges = append(edges, ^int32(i))
		}
	}
	slices.Sort(edges)
	b.obj.First, b.obj.Edges = []uint32{0, uint32(len(edges))}, edges
	b.followHits(b.hits())
	b.texts()
}

// hits are the addresses at which a system call may be made or a special import be called: by their bytes alone.
func (b *builder) hits() (at []uint64) {
	stubs := b.specialStubs()
	first, last := ^uint64(0), uint64(0)
	for stub := range stubs {
		first, last = min(first, stub), max(last, stub)
	}
	le := binary.LittleEndian
	for _, s := range b.segments {
		if !s.exec {
			continue
		}
		if b.machine == machineARM64 {
			for i := 0; i+4 <= len(s.data); i += 4 {
				w := le.Uint32(s.data[i:])
				pc := s.addr + uint64(i)
				if w == 0xd4000001 || w>>26 == 0x25 && stubs[pc+uint64(int64(int32(w<<6))>>4)] {
					at = append(at, pc)
				}
			}
			continue
		}
		for from := 0; ; {
			i := bytes.Index(s.data[from:], []byte{0x0f, 0x05})
			if i < 0 {
				break
			}
			from += i + 2
			at = append(at, s.addr+uint64(from-2))
		}
		if len(b.special) == 0 {
			continue
		}
		for i := 0; i+6 <= len(s.data); i++ {
			switch c := s.data[i]; {
			case c < 0xe8:
			case c == 0xe8 || c == 0xe9:
				to := s.addr + uint64(i) + 5 + uint64(int64(int32(le.Uint32(s.data[i+1:]))))
				if to >= first && to <= last && stubs[to] {
					at = append(at, s.addr+uint64(i))
				}
			case c == 0xff && (s.data[i+1] == 0x15 || s.data[i+1] == 0x25):
				slot, ok := b.slots[s.addr+uint64(i)+6+uint64(int64(int32(le.Uint32(s.data[i+2:]))))]
				if _, special := b.special[slot]; ok && special {
					at = append(at, s.addr+uint64(i))
				}
			}
		}
	}
	slices.Sort(at)
	return at
}

// specialStubs are the addresses of the stubs of special imports.
func (b *builder) specialStubs() map[uint64]bool {
	stubs := make(map[uint64]bool)
	for _, s := range b.plt {
		for off := uint64(0); off < uint64(len(s.data)); off += 8 {
			if i, ok := b.stub(s.addr + off); ok {
				if _, special := b.special[i]; special {
					stubs[s.addr+off] = true
				}
			}
		}
	}
	return stubs
}

// followHits tracks the functions around hits.
func (b *builder) followHits(hits []uint64) {
	found := make(map[uint8]bool)
	b.frames(func(start, size uint64) {
		i := sort.Search(len(hits), func(i int) bool { return hits[i] >= start })
		if i == len(hits) || hits[i] >= start+size || size > 1<<20 || b.inStubs(start) {
			return
		}
		steps := b.stepsOf(start, start+size)
		if !slices.ContainsFunc(steps, func(s track.Step) bool { _, ok := b.use(&s); return ok || s.Op == code.Foreign }) {
			return
		}
		for kind := range b.followSteps(0, steps) {
			found[kind] = true
		}
	})
	for _, sp := range b.special {
		if !found[sp.dynamic] {
			if b.obj.Dynamic[0] |= sp.dynamic; sp.dynamic == 0 {
				b.unknown(0, b.starts[0], "takes the address of syscall()")
			}
		}
	}
	if b.obj.Wrappers[0] != 0 {
		delete(b.obj.Wrappers, 0)
		b.unknown(0, b.starts[0], "the number of a system call is an argument")
	}
	if numbers := b.obj.Numbers[0]; numbers != nil {
		slices.Sort(numbers)
		b.obj.Numbers[0] = slices.Compact(numbers)
	}
}
