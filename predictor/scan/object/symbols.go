package object

import "encoding/binary"

// Dynamic tags.
const (
	tagNeeded    = 1
	tagPLTSize   = 2
	tagHash      = 4
	tagStrings   = 5
	tagSymbols   = 6
	tagRela      = 7
	tagRelaSize  = 8
	tagInit      = 12
	tagFini      = 13
	tagSoname    = 14
	tagRpath     = 15
	tagPLT       = 23
	tagInitArr   = 25
	tagFiniArr   = 26
	tagInitSize  = 27
	tagFiniSize  = 28
	tagRunpath   = 29
	tagPreinit   = 32
	tagPreSize   = 33
	tagRelrSize  = 35
	tagRelr      = 36
	tagGNUHash   = 0x6ffffef5
	tagStrSize   = 10
	symbolBytes  = 24
	kindFunction = 2
	kindIfunc    = 10
)

// symbol is one of the dynamic symbols, or of the full table.
type symbol struct {
	name       string
	kind       uint8
	defined    bool
	local      bool
	addr, size uint64
}

func parseSymbol(b, strings []byte) symbol {
	le := binary.LittleEndian
	return symbol{
		name: stringAt(strings, uint64(le.Uint32(b))), kind: b[4] & 15, local: b[4]>>4 == 0,
		defined: le.Uint16(b[6:]) != 0, addr: le.Uint64(b[8:]), size: le.Uint64(b[16:]),
	}
}

func (f *file) dynamicStrings() []byte {
	b := f.at(f.tag(tagStrings))
	return b[:min(uint64(len(b)), f.tag(tagStrSize))]
}

// dynamicSymbols reads the dynamic symbol table; its length is found by way of the hash tables.
func (f *file) dynamicSymbols() []symbol {
	b := f.at(f.tag(tagSymbols))
	n := f.countSymbols()
	strings := f.dynamicStrings()
	if n*symbolBytes > uint64(len(b)) {
		n = uint64(len(b)) / symbolBytes
	}
	all := make([]symbol, min(n, maxSymbols))
	for i := range all {
		all[i] = parseSymbol(b[i*symbolBytes:], strings)
	}
	return all
}

func (f *file) countSymbols() uint64 {
	le := binary.LittleEndian
	if s, ok := f.sections[".dynsym"]; ok && s.addr == f.tag(tagSymbols) {
		return uint64(len(s.data)) / symbolBytes
	}
	if b := f.at(f.tag(tagHash)); f.tag(tagHash) != 0 && len(b) >= 8 {
		return uint64(le.Uint32(b[4:]))
	}
	b := f.at(f.tag(tagGNUHash))
	if f.tag(tagGNUHash) == 0 || len(b) < 16 {
		if f.tag(tagStrings) > f.tag(tagSymbols) { // the usual order
			return (f.tag(tagStrings) - f.tag(tagSymbols)) / symbolBytes
		}
		return 0
	}
	buckets, offset, bloom := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:]))
	if buckets > maxSymbols || bloom > maxSymbols || 16+bloom*8+buckets*4 > uint64(len(b)) {
		return 0
	}
	b = b[16+bloom*8:]
	last := uint64(0)
	for i := range buckets {
		last = max(last, uint64(le.Uint32(b[i*4:])))
	}
	if last < offset {
		return offset
	}
	for chain := b[buckets*4:]; ; last++ {
		at := (last - offset) * 4
		if at+4 > uint64(len(chain)) || last > maxSymbols {
			return last
		}
		if le.Uint32(chain[at:])&1 == 1 {
			return last + 1
		}
	}
}

// allSymbols calls fn for the functions of the full symbol table, which most files have lost.
func (f *file) allSymbols(fn func(symbol)) {
	s := f.sections[".symtab"]
	strings := f.sections[".symtab strings"].data
	for b := s.data[:min(len(s.data), maxSymbols*symbolBytes)]; len(b) >= symbolBytes; b = b[symbolBytes:] {
		if sym := parseSymbol(b, strings); sym.defined && (sym.kind == kindFunction || sym.kind == kindIfunc) {
			fn(sym)
		}
	}
}

// reloc is a place that the dynamic linker writes to.
type reloc struct {
	kind   uint32
	symbol uint32
	place  uint64
	addend uint64
}

// relocations calls fn for all of them.
func (f *file) relocations(fn func(reloc)) {
	le := binary.LittleEndian
	left := maxRelocs
	for _, table := range [][]byte{f.table(tagRela, tagRelaSize), f.table(tagPLT, tagPLTSize), f.staticRelocations()} {
		for ; len(table) >= 24 && left > 0; table, left = table[24:], left-1 {
			info := le.Uint64(table[8:])
			fn(reloc{uint32(info), uint32(info >> 32), le.Uint64(table), le.Uint64(table[16:])})
		}
	}
	f.packed(func(place uint64) {
		if b := f.at(place); len(b) >= 8 && left > 0 {
			left--
			fn(reloc{f.relative(), 0, place, le.Uint64(b)})
		}
	})
}

// staticRelocations are those of a static program, which has only calls of resolvers.
func (f *file) staticRelocations() []byte {
	if len(f.dynamic) > 0 {
		return nil
	}
	if s, ok := f.sections[".rela.plt"]; ok {
		return s.data
	}
	return f.sections[".rela.dyn"].data
}

// packed calls fn for the places of DT_RELR.
func (f *file) packed(fn func(uint64)) {
	le := binary.LittleEndian
	base := uint64(0)
	for table := f.table(tagRelr, tagRelrSize); len(table) >= 8; table = table[8:] {
		word := le.Uint64(table)
		if word&1 == 0 {
			fn(word)
			base = word + 8
			continue
		}
		for i := uint64(0); i < 63; i++ {
			if word>>(i+1)&1 == 1 {
				fn(base + i*8)
			}
		}
		base += 63 * 8
	}
}

func (f *file) relative() uint32 {
	if f.machine == machineX86 {
		return 8
	}
	return 1027
}

// Kinds of relocation, as far as they place pointers.
func (r reloc) placesSymbol(machine uint16) bool {
	if machine == machineX86 {
		return r.kind == 1 || r.kind == 6 || r.kind == 7 // 64, GLOB_DAT, JUMP_SLOT
	}
	return r.kind == 257 || r.kind == 1025 || r.kind == 1026
}

func (r reloc) placesAddress(machine uint16) bool {
	if machine == machineX86 {
		return r.kind == 8 || r.kind == 37 // RELATIVE, IRELATIVE
	}
	return r.kind == 1027 || r.kind == 1032
}

// slot tells whether the place is one of the global offset table, which code reads by itself.
func (r reloc) slot(machine uint16) bool {
	if machine == machineX86 {
		return r.kind == 6 || r.kind == 7
	}
	return r.kind == 1025 || r.kind == 1026
}
