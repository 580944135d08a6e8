package object

import "encoding/binary"

// goTable is the function table (pclntab) of a Go program, of Go 1.16 and later. It stays when a program is stripped. Its
// format is that of runtime/symtab.go and debug/gosym.
type goTable struct {
	data      []byte
	text      uint64
	entries   []byte
	names     []byte
	functions uint64
	wide      bool // entries are addresses (Go 1.16, 1.17), else offsets from text
}

// The magic numbers by version: 1.20, 1.18, 1.16.
const (
	go120 = 0xfffffff1
	go118 = 0xfffffff0
	go116 = 0xfffffffa
)

// goTable finds the table: by its section, else by its magic number.
func (f *file) goTable() *goTable {
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s, ok := f.sections[name]; ok {
			if t := f.parseGoTable(s.data); t != nil {
				return t
			}
		}
	}
	for _, s := range f.segments {
		if s.exec {
			continue
		}
		for pos := 0; pos+72 < len(s.data); pos += 8 {
			if s.data[pos+1] == 0xff && s.data[pos+3] == 0xff && s.data[pos+2] == 0xff {
				if t := f.parseGoTable(s.data[pos:]); t != nil {
					return t
				}
			}
		}
	}
	return nil
}

func (f *file) parseGoTable(data []byte) *goTable {
	le := binary.LittleEndian
	if len(data) < 72 || data[4] != 0 || data[5] != 0 || data[7] != 8 || data[6] != 1 && data[6] != 4 {
		return nil
	}
	word := func(i int) uint64 { return le.Uint64(data[8+8*i:]) }
	t := &goTable{data: data, functions: word(0)}
	var names, table uint64
	size := uint64(8)
	switch le.Uint32(data) {
	case go118, go120:
		t.text, names, table = word(2), word(3), word(7)
		if t.text == 0 {
			t.text = f.goText()
		}
	case go116:
		names, table, t.wide, size = word(2), word(6), true, 16
	default:
		return nil
	}
	if names > uint64(len(data)) || table > uint64(len(data)) || t.functions > maxFunctions || t.functions*size > uint64(len(data))-table {
		return nil
	}
	t.names, t.entries = data[names:], data[table:]
	return t
}

// goText is where Go's code begins: newer linkers leave it out of the table.
func (f *file) goText() uint64 { return f.sections[".text"].addr }

func (t *goTable) entry(i uint64) (addr, info uint64) {
	le := binary.LittleEndian
	if t.wide {
		return le.Uint64(t.entries[i*16:]), le.Uint64(t.entries[i*16+8:])
	}
	return t.text + uint64(le.Uint32(t.entries[i*8:])), uint64(le.Uint32(t.entries[i*8+4:]))
}

func (t *goTable) starts() []uint64 {
	if t == nil {
		return nil
	}
	all := make([]uint64, t.functions)
	for i := range all {
		all[i], _ = t.entry(uint64(i))
	}
	return all
}

// name is that of the function at addr.
func (t *goTable) name(addr uint64) string {
	if t == nil {
		return ""
	}
	low, high := uint64(0), t.functions
	for low < high {
		mid := (low + high) / 2
		at, info := t.entry(mid)
		switch {
		case at == addr:
			return t.nameOf(info)
		case at < addr:
			low = mid + 1
		default:
			high = mid
		}
	}
	return ""
}

func (t *goTable) nameOf(info uint64) string {
	le := binary.LittleEndian
	table := t.entries
	at, width := info, uint64(4)
	if t.wide {
		width = 8
	}
	if at+width+4 > uint64(len(table)) {
		return ""
	}
	return stringAt(t.names, uint64(le.Uint32(table[at+width:])))
}

// goStrings calls fn for what the data of a Go program holds as strings: an address and a small length.
func (b *builder) goStrings(fn func([]byte)) {
	le := binary.LittleEndian
	for _, s := range b.segments {
		if s.exec {
			continue
		}
		for d := s.data; len(d) >= 16; d = d[8:] {
			n := le.Uint64(d[8:])
			if n < 3 || n > maxPathSize {
				continue
			}
			if t := b.text2(le.Uint64(d), n); t != nil {
				fn(t)
			}
		}
	}
}

// text2 is the n bytes at addr, if they are data.
func (b *builder) text2(addr, n uint64) []byte {
	s := b.segment(addr)
	if s == nil || s.exec || addr-s.addr > uint64(len(s.data)) || n > uint64(len(s.data))-(addr-s.addr) {
		return nil
	}
	return s.data[addr-s.addr:][:n]
}
