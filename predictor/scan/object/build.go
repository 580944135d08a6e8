package object

import (
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"forefend.dev/forefend/predictor/scan/arm64"
	"forefend.dev/forefend/predictor/scan/code"
	"forefend.dev/forefend/predictor/scan/x86"
)

// builder makes an Object of a file.
type builder struct {
	*file
	*layout
	obj        *Object
	decode     code.Decoder
	convention *code.Convention

	imports map[string]int32
	slots   map[uint64]int32 // place of a pointer to an import -> import
	taken   []bool           // functions whose address is used as a value
	data    []bool           // functions that are rather data
	endless []bool           // functions that do not come back
	falls   []bool           // functions that run into the next
	goNames func(addr uint64) string
	special map[int32]special // imports whose arguments matter
	makers  []int32           // functions with a system call instruction
	plt     []section         // stubs of imports; empty: unknown
	failure atomic.Value      // what a worker fell over
	pool    stringPool
}

// Read analyses the file in data.
func Read(data []byte) (*Object, error) {
	f, err := open(data)
	if err != nil {
		return nil, err
	}
	b := &builder{file: f, imports: map[string]int32{}, slots: map[uint64]int32{}}
	b.decode, b.convention = x86.Decode, &x86.Convention
	b.obj = &Object{
		Arch: "amd64", Exports: map[string][]int32{}, Numbers: map[int32][]int32{}, Wrappers: map[int32]uint64{},
		Unknown: map[int32][]Site{}, Commands: map[int32][]string{}, Dynamic: map[int32]uint8{},
	}
	if f.machine == machineARM64 {
		b.decode, b.convention, b.obj.Arch = arm64.Decode, &arm64.Convention, "arm64"
	}
	b.header()
	symbols := f.dynamicSymbols()
	for name, s := range f.sections {
		if strings.HasPrefix(name, ".plt") || name == ".iplt" {
			b.plt = append(b.plt, s)
		}
	}
	if f.codeSize() > maxWhole && len(symbols) > 0 {
		b.shallow(symbols)
		return b.obj, nil
	}
	table := f.goTable()
	b.obj.Go = table != nil
	if b.layout, err = f.layOut(symbols, table.starts(), b.decode); err != nil {
		return nil, err
	}
	b.goNames = table.name
	b.taken, b.data, b.endless = make([]bool, len(b.starts)), make([]bool, len(b.starts)), make([]bool, len(b.starts))
	b.falls = make([]bool, len(b.starts))
	b.obj.Starts = b.starts
	b.link(symbols)
	b.roots()
	b.special = specials(b.obj.Imports)
	b.sweep()
	if err := b.failure.Load(); err != nil {
		return nil, fmt.Errorf("decode: %v", err)
	}
	b.follow()
	b.texts()
	return b.obj, nil
}

// header takes over the names that the dynamic section has.
func (b *builder) header() {
	b.obj.Interp, b.obj.Fixed = b.interp, b.fixed
	b.obj.Static = b.interp == "" && len(b.dynamic[tagNeeded]) == 0 && b.tag(tagSoname) == 0
	names := b.dynamicStrings()
	if off := b.dynamic[tagSoname]; len(off) > 0 {
		b.obj.Soname = stringAt(names, off[0])
	}
	for _, off := range b.dynamic[tagNeeded] {
		if name := stringAt(names, off); name != "" {
			b.obj.Needed = append(b.obj.Needed, name)
		}
	}
	if off := b.dynamic[tagRpath]; len(off) > 0 {
		b.obj.Rpath = strings.Split(stringAt(names, off[0]), ":")
	}
	if off := b.dynamic[tagRunpath]; len(off) > 0 {
		b.obj.Runpath = strings.Split(stringAt(names, off[0]), ":")
	}
}

// importOf numbers the import called name.
func (b *builder) importOf(name string) int32 {
	i, ok := b.imports[name]
	if !ok {
		i = int32(len(b.obj.Imports))
		b.imports[name] = i
		b.obj.Imports = append(b.obj.Imports, name)
	}
	return i
}

// link reads symbols and relocations: exports, the places that hold imports, and the tables of functions.
func (b *builder) link(symbols []symbol) {
	for _, s := range symbols {
		if !s.defined || s.local || s.kind != kindFunction && s.kind != kindIfunc {
			continue
		}
		if i := b.find(s.addr); i >= 0 && !slices.Contains(b.obj.Exports[s.name], i) {
			b.obj.Exports[s.name] = append(b.obj.Exports[s.name], i)
		}
	}
	roots := make(map[int32]bool)
	b.relocations(func(r reloc) {
		switch {
		case r.placesSymbol(b.machine) && int(r.symbol) < len(symbols) && symbols[r.symbol].name != "":
			s := symbols[r.symbol]
			if s.kind == 1 || s.kind == 6 { // data, thread-local
				return
			}
			i := b.importOf(s.name)
			if b.slots[r.place] = i; !r.slot(b.machine) {
				roots[^i] = true
			}
		case r.placesAddress(b.machine):
			if i := b.find(r.addend); i >= 0 {
				roots[i], b.taken[i] = true, true
			}
		}
	})
	// A program at fixed addresses names an import's stub by the import's symbol.
	b.obj.Roots = slices.Sorted(maps.Keys(roots))
}

// roots adds what runs without being called, and, at fixed addresses, what data points to.
func (b *builder) roots() {
	roots := make(map[int32]bool)
	for _, r := range b.obj.Roots {
		roots[r] = true
	}
	add := func(addr uint64) {
		if addr == 0 {
			return
		}
		if i := b.find(addr); i >= 0 {
			roots[i], b.taken[i] = true, true
		}
	}
	add(b.entry)
	add(b.tag(tagInit))
	add(b.tag(tagFini))
	for _, t := range [][]byte{b.table(tagInitArr, tagInitSize), b.table(tagFiniArr, tagFiniSize), b.table(tagPreinit, tagPreSize)} {
		for ; len(t) >= 8; t = t[8:] {
			add(binary.LittleEndian.Uint64(t))
		}
	}
	if b.fixed {
		b.pointers(func(edge int32) {
			if roots[edge] = true; edge >= 0 {
				b.taken[edge] = true
			}
		})
	}
	b.obj.Roots = slices.Sorted(maps.Keys(roots))
}

// pointers finds the words of data that are addresses of functions.
func (b *builder) pointers(fn func(edge int32)) {
	low, high := ^uint64(0), uint64(0)
	for _, s := range b.segments {
		if s.exec {
			low, high = min(low, s.addr), max(high, s.addr+s.size)
		}
	}
	for _, s := range b.segments {
		if s.exec || len(s.data) > 64 && string(s.data[:4]) == "\x7fELF" && s.addr&7 == 0 && len(s.data) < 4096 { // headers alone
			continue
		}
		for d := s.data[-s.addr&7%uint64(max(1, len(s.data))):]; len(d) >= 8; d = d[8:] {
			if w := binary.LittleEndian.Uint64(d); w >= low && w < high {
				if i := b.find(w); i >= 0 && b.begins(i, w) {
					fn(i)
				}
				if i, ok := b.stub(w); ok {
					fn(^i)
				}
			}
		}
	}
}

// stub tells which import the code at addr jumps to, if that is all it does.
func (b *builder) stub(addr uint64) (int32, bool) {
	if len(b.plt) > 0 && !b.inStubs(addr) {
		return 0, false
	}
	text := b.at(addr)
	var in code.Inst
	page := int64(-1)
	for range 3 {
		if len(text) == 0 {
			return 0, false
		}
		b.decode(text, addr, &in)
		switch {
		case in.Op == code.JumpMem:
			i, ok := b.slots[uint64(in.Imm)]
			return i, ok
		case b.machine == machineARM64 && in.Op == code.Const:
			page = in.Imm
		case b.machine == machineARM64 && in.Op == code.Load && page >= 0:
			i, ok := b.slots[uint64(page+in.Imm)]
			return i, ok
		case in.Op != code.Other || in.Clobber != 0:
			return 0, false
		}
		text, addr = text[min(int(in.Len), len(text)):], addr+uint64(in.Len)
	}
	return 0, false
}

func (b *builder) inStubs(addr uint64) bool {
	return slices.ContainsFunc(b.plt, func(s section) bool { return addr-s.addr < uint64(len(s.data)) })
}

// workers is how many goroutines decode.
func workers() int { return max(1, min(4, runtime.GOMAXPROCS(0))) }

func (b *builder) fail(r any) { b.failure.CompareAndSwap(nil, fmt.Sprint(r)) }
