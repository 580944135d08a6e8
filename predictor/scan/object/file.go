package object

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
)

// Bounds of one file.
const (
	MaxSize      = 1 << 30
	maxSegments  = 256
	maxSections  = 4096
	maxSymbols   = 4 << 20
	maxRelocs    = 16 << 20
	maxFunctions = 4 << 20
	maxNeeded    = 4096
)

// ErrNotELF says that a file is no 64-bit little-endian ELF program or library of an architecture we know.
var ErrNotELF = errors.New("no ELF file for x86-64 or arm64")

// segment is a loaded part of a file.
type segment struct {
	addr, size uint64 // size in memory
	data       []byte // what the file has of it
	exec       bool
	write      bool
}

// file is the raw view of an ELF file.
type file struct {
	data     []byte
	machine  uint16
	fixed    bool // ET_EXEC: addresses are final
	entry    uint64
	segments []segment // by address
	interp   string
	dynamic  map[int64][]uint64
	sections map[string]section
	ehHeader uint64
}

type section struct {
	addr uint64
	data []byte
	kind uint32
	link int
}

const (
	machineX86   = 62
	machineARM64 = 183
)

func open(data []byte) (*file, error) {
	le := binary.LittleEndian
	if len(data) < 64 || len(data) > MaxSize || string(data[:4]) != "\x7fELF" || data[4] != 2 || data[5] != 1 {
		return nil, ErrNotELF
	}
	f := &file{data: data, machine: le.Uint16(data[18:]), fixed: le.Uint16(data[16:]) == 2, entry: le.Uint64(data[24:])}
	if kind := le.Uint16(data[16:]); kind != 2 && kind != 3 || f.machine != machineX86 && f.machine != machineARM64 {
		return nil, ErrNotELF
	}
	if err := f.readSegments(le.Uint64(data[32:]), int(le.Uint16(data[54:])), int(le.Uint16(data[56:]))); err != nil {
		return nil, err
	}
	f.readSections(le.Uint64(data[40:]), int(le.Uint16(data[58:])), int(le.Uint16(data[60:])), int(le.Uint16(data[62:])))
	return f, nil
}

// part is data[off:off+n], or nil when that is not all in the file.
func (f *file) part(off, n uint64) []byte {
	if off > uint64(len(f.data)) || n > uint64(len(f.data))-off {
		return nil
	}
	return f.data[off : off+n : off+n]
}

func (f *file) readSegments(off uint64, size, n int) error {
	le := binary.LittleEndian
	table := f.part(off, uint64(size)*uint64(n))
	if size < 56 || n > maxSegments || table == nil && n > 0 {
		return fmt.Errorf("damaged program headers: %w", ErrNotELF)
	}
	var dynamic []byte
	for i := range n {
		p := table[i*size:]
		offset, addr, fileSize, memSize := le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[32:]), le.Uint64(p[40:])
		content := f.part(offset, fileSize)
		switch le.Uint32(p) {
		case 1: // PT_LOAD
			if content == nil || memSize < fileSize || addr+memSize < addr || memSize > math.MaxInt32*16 {
				return fmt.Errorf("a segment is outside the file: %w", ErrNotELF)
			}
			flags := le.Uint32(p[4:])
			f.segments = append(f.segments, segment{addr, memSize, content, flags&1 != 0, flags&2 != 0})
		case 2: // PT_DYNAMIC
			dynamic = content
		case 3: // PT_INTERP
			f.interp = terminated(content)
		case 0x6474e550: // PT_GNU_EH_FRAME
			f.ehHeader = addr
		}
	}
	sort.Slice(f.segments, func(i, j int) bool { return f.segments[i].addr < f.segments[j].addr })
	f.dynamic = make(map[int64][]uint64)
	for ; len(dynamic) >= 16; dynamic = dynamic[16:] {
		tag := int64(le.Uint64(dynamic))
		if tag == 0 {
			break
		}
		if len(f.dynamic[tag]) < maxNeeded {
			f.dynamic[tag] = append(f.dynamic[tag], le.Uint64(dynamic[8:]))
		}
	}
	return nil
}

// readSections takes what there is: a stripped or damaged table is no error.
func (f *file) readSections(off uint64, size, n, names int) {
	le := binary.LittleEndian
	f.sections = make(map[string]section)
	table := f.part(off, uint64(size)*uint64(n))
	if size < 64 || table == nil || n > maxSections || names >= n {
		return
	}
	content := func(i int) []byte {
		s := table[i*size:]
		if le.Uint32(s[4:]) == 8 { // SHT_NOBITS
			return nil
		}
		return f.part(le.Uint64(s[24:]), le.Uint64(s[32:]))
	}
	strings := content(names)
	for i := range n {
		s := table[i*size:]
		f.sections[stringAt(strings, uint64(le.Uint32(s)))] = section{le.Uint64(s[16:]), content(i), le.Uint32(s[4:]), int(le.Uint32(s[40:]))}
	}
	if sym, ok := f.sections[".symtab"]; ok && sym.link < n {
		f.sections[".symtab strings"] = section{data: content(sym.link)}
	}
}

// at is what the file has from an address to the end of its segment.
func (f *file) at(addr uint64) []byte {
	if s := f.segment(addr); s != nil && addr-s.addr < uint64(len(s.data)) {
		return s.data[addr-s.addr:]
	}
	return nil
}

func (f *file) segment(addr uint64) *segment {
	for i := range f.segments {
		if s := &f.segments[i]; addr >= s.addr && addr-s.addr < s.size {
			return s
		}
	}
	return nil
}

func (f *file) executable(addr uint64) bool {
	s := f.segment(addr)
	return s != nil && s.exec
}

func (f *file) tag(tag int64) uint64 {
	if v := f.dynamic[tag]; len(v) > 0 {
		return v[0]
	}
	return 0
}

// table is what a pair of dynamic tags describes.
func (f *file) table(addr, size int64) []byte {
	b := f.at(f.tag(addr))
	if f.tag(addr) == 0 || f.tag(size) > uint64(len(b)) {
		return nil
	}
	return b[:f.tag(size)]
}

// terminated is b to its first NUL.
func terminated(b []byte) string { return stringAt(b, 0) }

func stringAt(b []byte, off uint64) string {
	if off >= uint64(len(b)) {
		return ""
	}
	b = b[off:]
	for i, c := range b[:min(len(b), 4096)] {
		if c == 0 {
			return string(b[:i])
		}
	}
	return ""
}
