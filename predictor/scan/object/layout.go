package object

import (
	"fmt"
	"sort"
	"strings"

	"forefend.dev/forefend/predictor/scan/code"
)

// layout is where the functions are.
type layout struct {
	starts, ends []uint64
	framed       []bool // begins where a function does by the unwinding tables
	closed       []bool // ends where one does
}

// find is the function at addr, or -1.
func (l *layout) find(addr uint64) int32 {
	i := sort.Search(len(l.starts), func(i int) bool { return l.starts[i] > addr }) - 1
	if i < 0 || addr >= l.ends[i] {
		return -1
	}
	return int32(i)
}

// exact tells whether a function begins at addr.
func (l *layout) exact(addr uint64) (int32, bool) {
	i := l.find(addr)
	if i < 0 || l.starts[i] != addr {
		return -1, false
	}
	return i, true
}

// begins tells whether addr may be where a function begins, addr being in i. In a stretch of code that no table divides it
// may be anywhere.
func (l *layout) begins(i int32, addr uint64) bool {
	return l.starts[i] == addr || !l.framed[i] && l.ends[i]-l.starts[i] > maxUndivided
}

// maxUndivided is the size of an unframed function up to which it is one function.
const maxUndivided = 4096

// layOut divides the executable segments into functions: by the unwinding tables, the symbols, the table of a Go
// program; what none of them knows is a function of its own between its neighbours.
func (f *file) layOut(symbols []symbol, goStarts []uint64, decode code.Decoder) (*layout, error) {
	framed, closed := make(map[uint64]bool), make(map[uint64]bool)
	var bounds []uint64
	room := func() bool { return len(bounds) < maxFunctions }
	f.frames(func(start, size uint64) {
		if f.executable(start) && size > 0 && room() {
			framed[start], closed[start+size] = true, true
			bounds = append(bounds, start, start+size)
		}
	})
	add := func(s symbol) {
		if s.defined && (s.kind == kindFunction || s.kind == kindIfunc) && f.executable(s.addr) && room() {
			if bounds = append(bounds, s.addr); s.size > 0 {
				bounds = append(bounds, s.addr+s.size)
			}
		}
	}
	for _, s := range symbols {
		add(s)
	}
	f.allSymbols(add)
	for _, start := range goStarts {
		if f.executable(start) && room() {
			bounds = append(bounds, start)
			framed[start] = true
		}
	}
	for _, start := range []uint64{f.entry, f.tag(tagInit), f.tag(tagFini)} {
		if start != 0 && f.executable(start) {
			bounds = append(bounds, start)
		}
	}
	for name, s := range f.sections {
		if strings.HasPrefix(name, ".plt") || name == ".init" || name == ".fini" || name == ".text" {
			bounds = append(bounds, s.addr, s.addr+uint64(len(s.data)))
		}
	}
	if !room() {
		return nil, fmt.Errorf("more than %d functions", maxFunctions)
	}
	l := f.divide(bounds, framed, closed)
	if more := f.called(l, decode); len(more) > 0 && len(bounds)+len(more) < maxFunctions {
		l = f.divide(append(bounds, more...), framed, closed)
	}
	return l, nil
}

// called finds where calls go in the stretches of code that no table divides: programs without unwinding tables, musl's
// libc. A function begins there.
func (f *file) called(l *layout, decode code.Decoder) (targets []uint64) {
	var in code.Inst
	for i, start := range l.starts {
		if l.framed[i] || l.ends[i]-start < 64 {
			continue
		}
		text := f.at(start)
		text = text[:min(uint64(len(text)), l.ends[i]-start)]
		for pc := start; len(text) > 0; {
			decode(text, pc, &in)
			if in.Op == code.Call {
				if to := l.find(uint64(in.Imm)); to >= 0 && !l.framed[to] && l.starts[to] != uint64(in.Imm) && len(targets) < maxFunctions {
					targets = append(targets, uint64(in.Imm))
				}
			}
			n := min(int(in.Len), len(text))
			text, pc = text[n:], pc+uint64(n)
		}
	}
	return targets
}

func (f *file) divide(bounds []uint64, framed, closed map[uint64]bool) *layout {
	l := &layout{}
	text, hasText := f.sections[".text"]
	for _, s := range f.segments {
		if s.exec {
			bounds = append(bounds, s.addr, s.addr+uint64(len(s.data)))
		}
	}
	sort.Slice(bounds, func(i, j int) bool { return bounds[i] < bounds[j] })
	for i := 0; i+1 < len(bounds); i++ {
		from, to := bounds[i], bounds[i+1]
		if from == to || !f.executable(from) {
			continue
		}
		// A segment may begin with headers and read-only data.
		if hasText && from < text.addr && !framed[from] && !f.inCodeSection(from) {
			continue
		}
		l.starts, l.ends, l.framed = append(l.starts, from), append(l.ends, to), append(l.framed, framed[from])
		l.closed = append(l.closed, closed[to])
	}
	return l
}

func (f *file) inCodeSection(addr uint64) bool {
	for _, name := range []string{".init", ".plt", ".plt.got", ".plt.sec", ".iplt"} {
		if s, ok := f.sections[name]; ok && addr >= s.addr && addr-s.addr < uint64(len(s.data)) {
			return true
		}
	}
	return false
}
