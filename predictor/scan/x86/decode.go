// Package x86 decodes x86-64 instructions as far as package code asks: lengths of all of them, also of AVX and AVX-512,
// and the meaning of the few that move constants, addresses and control. It does not tell valid operands from invalid
// ones. Lengths follow the opcode maps of the Intel manual, volume 2, appendix A; a test compares them with
// golang.org/x/arch/x86/x86asm.
package x86

import (
	"encoding/binary"

	"forefend.dev/forefend/predictor/scan/code"
)

// Registers by number.
const (
	RAX code.Reg = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
)

func bits(regs ...code.Reg) (m uint32) {
	for _, r := range regs {
		m |= 1 << r
	}
	return m
}

// Convention is that of the System V ABI and of Linux.
var Convention = code.Convention{
	Number: RAX, Stack: RSP, Args: []code.Reg{RDI, RSI, RDX, RCX, R8, R9}, Registers: 16, Pushes: 8,
	Volatile: bits(RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11), Kernel: bits(RAX, RCX, R11),
}

// state is one instruction being decoded.
type state struct {
	text    []byte
	pos     int
	pc      uint64
	in      *code.Inst
	rex     byte
	word    bool // operand size prefix
	segment bool // FS or GS: an address is none of the image's
	addr32  bool

	mod, reg, rm   byte // reg and rm with REX
	base           code.Reg
	indexed        bool
	memory         bool // it has a memory operand
	ripRelative    bool
	disp           int32
	immediateBytes int // behind the operand, for rip-relative addresses
}

const maxLen = 15

// Decode is a code.Decoder.
func Decode(text []byte, pc uint64, in *code.Inst) {
	if len(text) > maxLen {
		text = text[:maxLen]
	}
	s := state{text: text, pc: pc, in: in}
	*in = code.Inst{Dst: code.None, Src: code.None}
	if !s.decode() || s.pos > len(text) {
		*in = code.Inst{Op: code.Bad, Len: 1, Dst: code.None, Src: code.None, Clobber: 0xffff}
		return
	}
	in.Len = uint8(s.pos)
	if address, fixed := s.address(); fixed && in.Op == code.Other && s.memory {
		in.Op, in.Imm = code.LoadAddr, address
	}
}

func (s *state) next() (byte, bool) {
	if s.pos >= len(s.text) {
		return 0, false
	}
	b := s.text[s.pos]
	s.pos++
	return b, true
}

func (s *state) decode() bool {
	for {
		b, ok := s.next()
		if !ok {
			return false
		}
		switch {
		case b == 0x66:
			s.word = true
		case b == 0x64 || b == 0x65:
			s.segment = true
		case b == 0x67:
			s.addr32 = true
		case b == 0xf0, b == 0xf2, b == 0xf3, b == 0x2e, b == 0x36, b == 0x3e, b == 0x26:
		case b&0xf0 == 0x40:
			s.rex = b
			if b, ok = s.next(); !ok {
				return false
			}
			return s.opcode(b)
		default:
			return s.opcode(b)
		}
	}
}

func (s *state) opcode(b byte) bool {
	switch b {
	case 0x0f:
		return s.twoByte()
	case 0xc4, 0xc5:
		return s.vex(b)
	case 0x62:
		return s.evex()
	}
	attr := oneByte[b]
	if attr&invalid != 0 {
		return false
	}
	return s.operands(attr, b) && s.meaning(b)
}

// operands passes over ModRM, displacement and immediate.
func (s *state) operands(attr uint8, op byte) bool {
	if attr&modrm != 0 && !s.modRM() {
		return false
	}
	switch attr & immediate {
	case imm8:
		s.immediateBytes = 1
	case imm16:
		s.immediateBytes = 2
	case immZ:
		s.immediateBytes = 4
		if s.word {
			s.immediateBytes = 2
		}
	case immV:
		s.immediateBytes = 4
		if s.rex&8 != 0 {
			s.immediateBytes = 8
		} else if s.word {
			s.immediateBytes = 2
		}
	case imm24:
		s.immediateBytes = 3
	case moffs:
		s.immediateBytes = 8
		if s.addr32 {
			s.immediateBytes = 4
		}
	case rel32:
		s.immediateBytes = 4
	case group3:
		if s.reg&6 == 0 {
			s.immediateBytes = 1
			if op == 0xf7 {
				s.immediateBytes = 4
				if s.word {
					s.immediateBytes = 2
				}
			}
		}
	}
	s.pos += s.immediateBytes
	return s.pos <= len(s.text)
}

func (s *state) modRM() bool {
	b, ok := s.next()
	if !ok {
		return false
	}
	s.mod, s.reg, s.rm = b>>6, b>>3&7|s.rex<<1&8, b&7|s.rex<<3&8
	s.base = code.None
	if s.mod == 3 {
		return true
	}
	s.memory = true
	n := [3]int{0, 1, 4}[s.mod]
	switch {
	case b&7 == 4:
		sib, ok := s.next()
		if !ok {
			return false
		}
		s.base = code.Reg(sib&7 | s.rex<<3&8)
		s.indexed = sib>>3&7|s.rex<<2&8 != 4
		if sib&7 == 5 && s.mod == 0 {
			s.base, n = code.None, 4
		}
	case b&7 == 5 && s.mod == 0:
		s.ripRelative, n = true, 4
	default:
		s.base = code.Reg(s.rm)
	}
	if s.pos+n > len(s.text) {
		return false
	}
	switch n {
	case 1:
		s.disp = int32(int8(s.text[s.pos]))
	case 4:
		s.disp = int32(binary.LittleEndian.Uint32(s.text[s.pos:]))
	}
	s.pos += n
	return true
}

// imm is the immediate, sign-extended.
func (s *state) imm() int64 {
	b := s.text[s.pos-s.immediateBytes : s.pos]
	switch s.immediateBytes {
	case 1:
		return int64(int8(b[0]))
	case 2:
		return int64(int16(binary.LittleEndian.Uint16(b)))
	case 4:
		return int64(int32(binary.LittleEndian.Uint32(b)))
	case 8:
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

// address is that of a rip-relative or absolute operand.
func (s *state) address() (int64, bool) {
	switch {
	case s.segment || s.mod == 3:
		return 0, false
	case s.ripRelative:
		return int64(s.pc) + int64(s.pos) + int64(s.disp), true
	case s.base == code.None && !s.indexed:
		return int64(s.disp), true
	}
	return 0, false
}

// target is where a relative jump goes.
func (s *state) target() int64 { return int64(s.pc) + int64(s.pos) + s.imm() }

func (s *state) vex(b byte) bool {
	p, ok := s.next()
	if !ok {
		return false
	}
	opmap := byte(1)
	s.rex = ^p >> 5 & 4 // R
	if b == 0xc4 {
		opmap = p & 0x1f
		s.rex = ^p >> 5 & 7 // R X B
		if _, ok = s.next(); !ok {
			return false
		}
	}
	return s.vector(opmap)
}

func (s *state) evex() bool {
	if s.pos+3 > len(s.text) {
		return false
	}
	p := s.text[s.pos]
	s.pos += 3
	s.rex = ^p >> 5 & 7
	return s.vector(p & 7)
}

func (s *state) vector(opmap byte) bool {
	op, ok := s.next()
	if !ok || opmap == 0 || opmap > 6 || opmap == 4 {
		return false
	}
	attr := uint8(modrm)
	switch {
	case opmap == 3:
		attr |= imm8
	case opmap == 1 && op == 0x77:
		attr = 0
	case opmap == 1:
		attr |= twoByteMap[op] & immediate
	}
	if !s.operands(attr, op) {
		return false
	}
	s.vectorWrites(opmap, op)
	return true
}

// vectorWrites notes the general registers that an instruction of the extended maps writes.
func (s *state) vectorWrites(opmap, op byte) {
	switch {
	case opmap == 2 && op >= 0xf0 && op <= 0xf8: // bit manipulation: some write a register that only the prefix names
		s.in.Clobber = anyButStack
	case opmap == 3 && op >= 0x14 && op <= 0x17, opmap == 1 && op == 0x7e:
		s.writesRM()
	case opmap == 3 && (op == 0xf0 || op >= 0x60 && op <= 0x63), opmap == 5 && (op == 0x2c || op == 0x2d || op >= 0x78 && op <= 0x7e):
		s.writesReg()
		s.in.Clobber |= bits(RCX)
	case opmap == 1:
		switch op {
		case 0x2c, 0x2d, 0x50, 0xd7, 0xc5, 0x93, 0x78, 0x79:
			s.writesReg()
		}
	}
}

// anyButStack are all registers that an ordinary instruction may write.
const anyButStack = 0xffff &^ (1 << 4)

func (s *state) writesReg() { s.in.Clobber |= 1 << s.reg & anyButStack }

func (s *state) writesRM() {
	if s.mod == 3 {
		s.in.Clobber |= 1 << s.rm & anyButStack
	}
}

// clobberOperands assumes that an instruction writes both its register operands.
func (s *state) clobberOperands() {
	s.writesReg()
	s.writesRM()
}
