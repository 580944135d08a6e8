package object

import (
	"encoding/binary"
	"strings"
)

// frames calls fn for every function that the unwinding tables know (.eh_frame, LSB specification, chapter 10.6). They
// survive stripping. Damaged records end the reading.
func (f *file) frames(fn func(start, size uint64)) {
	addr, b := f.frameTable()
	le := binary.LittleEndian
	encodings := make(map[uint64]common)
	for pos := uint64(0); pos+8 <= uint64(len(b)); {
		length := uint64(le.Uint32(b[pos:]))
		if length == 0 {
			pos += 4
			continue
		}
		if length == 0xffffffff || length < 4 || length > uint64(len(b))-pos-4 {
			return
		}
		record := b[pos+4 : pos+4+length]
		id := uint64(le.Uint32(record))
		switch {
		case id == 0:
			encodings[pos] = readCommon(record[4:])
		default:
			if enc, ok := encodings[pos+4-id]; ok {
				start, size, ok := extent(record[4:], addr+pos+8, enc.encoding)
				if enc.signal && size > 1 { // written one byte early, for the sake of unwinders
					start, size = start+1, size-1
				}
				if ok {
					fn(start, size)
				}
			}
		}
		pos += 4 + length
	}
}

func (f *file) frameTable() (uint64, []byte) {
	if s, ok := f.sections[".eh_frame"]; ok {
		return s.addr, s.data
	}
	h := f.at(f.ehHeader)
	if f.ehHeader == 0 || len(h) < 8 || h[1] != 0x1b {
		return 0, nil
	}
	addr := f.ehHeader + 4 + uint64(int64(int32(binary.LittleEndian.Uint32(h[4:]))))
	return addr, f.at(addr)
}

// common is what functions' records share, by the position of the common record.
type common struct {
	encoding byte // of addresses
	signal   bool // the function is a signal handler's return
}

func readCommon(b []byte) common {
	return common{pointerEncoding(b), strings.Contains(stringAt(b, 1), "S")}
}

func pointerEncoding(b []byte) byte {
	augmentation := stringAt(b, 1)
	if len(b) < 1 || augmentation == "" || augmentation[0] != 'z' {
		return 0
	}
	b = b[1+len(augmentation)+1:]
	for range 3 { // code alignment, data alignment, return register
		b = skipLEB(b)
	}
	b = skipLEB(b) // length of what follows
	for _, c := range augmentation[1:] {
		switch {
		case len(b) == 0:
			return 0
		case c == 'R':
			return b[0]
		case c == 'L':
			b = b[1:]
		case c == 'P':
			n := encodedSize(b[0]) + 1
			if len(b) < n {
				return 0
			}
			b = b[n:]
		}
	}
	return 0
}

func skipLEB(b []byte) []byte {
	for i, c := range b {
		if c < 0x80 {
			return b[i+1:]
		}
	}
	return nil
}

func encodedSize(enc byte) int {
	switch enc & 7 {
	case 2:
		return 2
	case 3:
		return 4
	}
	return 8
}

// extent reads a function's first address, written at address at, and its size.
func extent(b []byte, at uint64, enc byte) (start, size uint64, ok bool) {
	le := binary.LittleEndian
	n := encodedSize(enc)
	if len(b) < 2*n || n == 2 {
		return 0, 0, false
	}
	if n == 4 {
		start, size = uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
		if enc&8 != 0 {
			start = uint64(int64(int32(start)))
		}
	} else {
		start, size = le.Uint64(b), le.Uint64(b[8:])
	}
	if enc&0x70 == 0x10 {
		start += at
	}
	return start, size, true
}
