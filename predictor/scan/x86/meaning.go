package x86

import "forefend.dev/forefend/predictor/scan/code"

// meaning interprets a one-byte opcode whose operands were read.
func (s *state) meaning(op byte) bool {
	in := s.in
	in.Narrow = s.rex&8 == 0
	switch {
	case op < 0x40:
		s.arithmetic(op)
	case op <= 0x57: // 50
		in.Op, in.Src = code.Push, s.low(op)
	case op <= 0x5f:
		in.Op, in.Dst, in.Narrow = code.Pop, s.low(op), false
	case op == 0x68, op == 0x6a:
		in.Op, in.Imm = code.PushConst, s.imm()
	case op >= 0x70 && op <= 0x7f, op >= 0xe0 && op <= 0xe3:
		in.Op, in.Imm = code.Branch, s.target()
		s.condition(op)
	case op == 0x85 && s.mod == 3 && s.reg == s.rm:
		in.Op, in.Dst = code.Test, code.Reg(s.rm)
	case op >= 0x80 && op <= 0x83:
		s.group1(op)
	case op == 0x84, op == 0x85, op == 0xa8, op == 0xa9: // test
	case op == 0x89, op == 0x8b:
		s.move(op)
	case op == 0x63 && s.mod == 3:
		in.Op, in.Dst, in.Src = code.Move, code.Reg(s.reg), code.Reg(s.rm)
	case op == 0x63:
		s.move(0x8b)
		in.Narrow = true // half of the bytes are read
	case op == 0x8d:
		s.lea()
	case op == 0x90, op == 0x98: // nop; sign extension keeps small numbers
	case op > 0x90 && op <= 0x97:
		in.Clobber = bits(RAX, s.low(op))
	case op == 0x99:
		in.Clobber = bits(RDX)
	case op >= 0xa0 && op <= 0xa3:
		in.Clobber = bits(RAX)
	case op >= 0xa4 && op <= 0xaf:
		in.Clobber = bits(RAX, RCX, RSI, RDI)
	case op >= 0xb8 && op <= 0xbf && !s.word:
		in.Op, in.Dst, in.Imm = code.Const, s.low(op), s.imm()
	case op >= 0xb0 && op <= 0xb3 || op >= 0xb4 && op <= 0xb7 && s.rex != 0 && s.low(op) != RSP:
		in.Op, in.Dst, in.Imm = code.Byte, s.low(op), s.imm()&0xff
	case op >= 0xb0 && op <= 0xb7:
		in.Clobber = bits(s.low(op), s.low(op)&3) &^ bits(RSP) // one byte, maybe the second
	case op == 0xc7:
		s.moveImmediate()
	case op == 0xc2, op == 0xc3, op == 0xca, op == 0xcb, op == 0xcf:
		in.Op = code.Return
	case op == 0xc9:
		in.Clobber = bits(RSP, RBP)
	case op == 0xc8:
		in.Clobber = bits(RSP, RBP)
	case op == 0xcc, op == 0xf4:
		in.Op = code.Trap
	case op == 0xcd:
		if in.Clobber = bits(RAX); s.imm() == -0x80 {
			in.Op = code.Foreign
		}
	case op == 0xd7, op == 0xe4, op == 0xe5, op == 0xec, op == 0xed:
		in.Clobber = bits(RAX)
	case op == 0xe8:
		in.Op, in.Imm = code.Call, s.target()
	case op == 0xe9, op == 0xeb:
		in.Op, in.Imm = code.Jump, s.target()
	case op == 0xf6, op == 0xf7:
		if s.reg&7 >= 2 { // not a test
			s.writesRM()
		}
		if s.reg&7 >= 4 {
			in.Clobber |= bits(RAX, RDX)
		}
	case op == 0xc0, op == 0xc1, op == 0xc6, op >= 0xd0 && op <= 0xd3, op == 0xfe, op == 0x8f, op == 0x8c:
		s.writesRM()
	case op >= 0xd8 && op <= 0xdf:
		in.Clobber = bits(RAX) // fnstsw
	case op == 0x88, op == 0x38, op == 0x8e: // byte to memory or register
		s.writesRM()
	case op == 0xff:
		return s.group5()
	case oneByte[op]&modrm != 0:
		s.clobberOperands()
	default:
		in.Clobber = 0
	}
	return true
}

// low is the register in the low bits of an opcode.
func (s *state) low(op byte) code.Reg { return code.Reg(op&7 | s.rex<<3&8) }

func (s *state) arithmetic(op byte) {
	kind, form := op>>3, op&7
	switch {
	case kind == 7: // cmp
	case kind == 3 && (form == 1 || form == 3) && s.mod == 3 && s.reg == s.rm && !s.word: // sbb r, r
		s.in.Op, s.in.Dst, s.in.Imm = code.Choice, code.Reg(s.rm), -1
	case form == 4 || form == 5:
		s.in.Clobber = bits(RAX)
	case (kind == 6 || kind == 5) && (form == 1 || form == 3) && s.mod == 3 && s.reg == s.rm && !s.word:
		s.in.Op, s.in.Dst = code.Const, code.Reg(s.rm)
	case form < 2 && s.mod != 3: // to memory
	case form < 2:
		s.in.Clobber = 1 << s.rm
	default:
		s.in.Clobber = 1 << s.reg
	}
}

func (s *state) group1(op byte) {
	if s.reg &= 7; s.reg == 7 || s.mod != 3 {
		return
	}
	r := code.Reg(s.rm)
	switch {
	case op == 0x80 || s.word:
		s.in.Clobber = bits(r)
	case s.reg == 0, s.reg == 5:
		s.in.Op, s.in.Dst, s.in.Src, s.in.Imm = code.Add, r, r, s.imm()
		if s.reg == 5 {
			s.in.Imm = -s.in.Imm
		}
	case s.reg == 1 && s.imm() == -1:
		s.in.Op, s.in.Dst, s.in.Imm = code.Const, r, -1
	case s.reg == 4 && s.imm() == 0:
		s.in.Op, s.in.Dst = code.Const, r
	case s.reg == 4 && r != RSP:
		s.in.Op, s.in.Dst, s.in.Imm = code.And, r, s.imm()
	default:
		s.in.Clobber = bits(r)
	}
}

func (s *state) move(op byte) {
	in := s.in
	from, to := code.Reg(s.reg), code.Reg(s.rm)
	if op == 0x8b {
		from, to = to, from
	}
	address, fixed := s.address()
	switch {
	case s.mod == 3 && s.word:
		in.Clobber = bits(to)
	case s.mod == 3:
		in.Op, in.Dst, in.Src = code.Move, to, from
	case op == 0x8b && s.word:
		in.Clobber = bits(to)
	case op == 0x8b && fixed:
		in.Op, in.Dst, in.Imm = code.LoadAddr, to, address
	case op == 0x8b && s.base != code.None && !s.indexed && !s.segment:
		in.Op, in.Dst, in.Src, in.Imm = code.Load, to, s.base, int64(s.disp)
	case op == 0x8b:
		in.Clobber = bits(to)
	case s.base != code.None && !s.indexed && !s.segment:
		in.Op, in.Dst, in.Src, in.Imm = code.Store, s.base, from, int64(s.disp)
		if s.word {
			in.Src = code.None
		}
	}
}

func (s *state) moveImmediate() {
	in := s.in
	if s.mod == 3 {
		if s.word {
			in.Clobber = 1 << s.rm
			return
		}
		in.Op, in.Dst, in.Imm = code.Const, code.Reg(s.rm), s.imm()
		return
	}
	in.Op, in.Imm, in.Disp = code.StoreConst, s.imm(), s.disp
	if in.Dst = s.base; s.indexed || s.segment {
		in.Dst = code.None
	}
}

func (s *state) lea() {
	in := s.in
	if s.mod == 3 {
		in.Clobber = 1 << s.reg
		return
	}
	in.Dst = code.Reg(s.reg)
	if address, fixed := s.address(); fixed && !s.word {
		in.Op, in.Imm, in.Narrow = code.Addr, address, false
		return
	}
	if s.ripRelative { // of a segment: the offset alone
		in.Op, in.Imm = code.Addr, int64(s.pc)+int64(s.pos)+int64(s.disp)
		return
	}
	if s.base != code.None && !s.indexed && !s.word {
		in.Op, in.Src, in.Imm = code.Add, s.base, int64(s.disp)
		return
	}
	in.Dst, in.Clobber = code.None, 1<<s.reg
}

func (s *state) group5() bool {
	in := s.in
	address, fixed := s.address()
	switch s.reg & 7 {
	case 0, 1:
		if s.mod == 3 {
			in.Clobber = 1 << s.rm
		}
	case 2:
		if in.Op = code.CallReg; fixed {
			in.Op, in.Imm = code.CallMem, address
		}
	case 4:
		if in.Op = code.JumpReg; fixed {
			in.Op, in.Imm = code.JumpMem, address
		}
	case 3, 5:
		in.Op = code.JumpReg
	case 6:
		if in.Op = code.Push; s.mod == 3 {
			in.Src = code.Reg(s.rm)
		}
	default:
		return false
	}
	return true
}

// twoByte decodes what follows 0x0f.
func (s *state) twoByte() bool {
	op, ok := s.next()
	if !ok {
		return false
	}
	switch op {
	case 0x38, 0x3a:
		if _, ok := s.next(); !ok {
			return false
		}
		attr := uint8(modrm)
		if op == 0x3a {
			attr |= imm8
		}
		which := op
		op = s.text[s.pos-1]
		if !s.operands(attr, op) {
			return false
		}
		switch {
		case which == 0x38 && op >= 0xf0:
			s.clobberOperands()
		case which == 0x3a && op >= 0x14 && op <= 0x17:
			s.writesRM()
		case which == 0x3a && op >= 0x60 && op <= 0x63:
			in := s.in
			in.Clobber = bits(RCX)
		}
		return true
	}
	attr := twoByteMap[op]
	if attr&invalid != 0 || !s.operands(attr, op) {
		return false
	}
	s.meaningTwo(op)
	return true
}

func (s *state) meaningTwo(op byte) {
	in := s.in
	in.Narrow = s.rex&8 == 0
	switch {
	case op == 0x05:
		in.Op = code.Syscall
	case op == 0x34:
		in.Op = code.Foreign
	case op == 0x0b, op == 0xff, op == 0xb9:
		in.Op = code.Trap
	case op >= 0x80 && op <= 0x8f:
		in.Op, in.Imm = code.Branch, s.target()
		s.condition(op)
	case op >= 0x40 && op <= 0x4f:
		if in.Clobber = 1 << s.reg; s.mod == 3 && !s.word {
			in.Op, in.Dst, in.Src, in.Clobber = code.CondMove, code.Reg(s.reg), code.Reg(s.rm), 0
		}
	case op == 0x01, op == 0xa2, op == 0x31, op == 0x32, op == 0x33, op == 0xc7:
		in.Clobber = bits(RAX, RBX, RCX, RDX) | 1<<s.rm
	case op == 0xb0, op == 0xb1:
		s.clobberOperands()
		in.Clobber |= bits(RAX)
	case op >= 0xc8 && op <= 0xcf:
		in.Clobber = bits(s.low(op))
	case op >= 0x90 && op <= 0x9f, op == 0xba, op == 0x7e, op == 0xa4, op == 0xa5, op == 0xab, op == 0xac, op == 0xad,
		op == 0xb3, op == 0xbb, op == 0x00, op == 0xae:
		s.writesRM()
	case op == 0x02, op == 0x03, op == 0x2c, op == 0x2d, op == 0x50, op == 0xd7, op == 0xc5, op == 0xaf,
		op >= 0xb6 && op <= 0xbf, op == 0xb2, op == 0xb4, op == 0xb5:
		s.writesReg()
	case op == 0xc0, op == 0xc1, op >= 0x20 && op <= 0x23, op == 0x78, op == 0x79:
		s.clobberOperands()
	}
}

// condition notes what a conditional jump asks.
func (s *state) condition(op byte) {
	switch op {
	case 0x74, 0x84:
		s.in.Disp = code.IfZero
	case 0x75, 0x85:
		s.in.Disp = code.IfNotZero
	}
}
