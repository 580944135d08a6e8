// Package arm64 decodes A64 instructions as far as package code asks: control flow, constants, pc-relative addresses and
// copies. Encodings are those of the Arm Architecture Reference Manual, section C4.
package arm64

import (
	"encoding/binary"
	"math/bits"

	"forefend.dev/forefend/predictor/scan/code"
)

// Registers by number; 31 is the stack pointer or zero.
const (
	SP   code.Reg = 31
	zero code.Reg = 31
)

// Convention is that of the procedure call standard and of Linux.
var Convention = code.Convention{
	Number: 8, Stack: SP, Args: []code.Reg{0, 1, 2, 3, 4, 5, 6, 7}, Registers: 32,
	Volatile: 0x4007ffff, Kernel: 1,
}

// Decode is a code.Decoder.
func Decode(text []byte, pc uint64, in *code.Inst) {
	*in = code.Inst{Dst: code.None, Src: code.None, Len: 4}
	if len(text) < 4 {
		in.Op, in.Len, in.Clobber = code.Bad, uint8(max(1, len(text))), 0xffffffff
		return
	}
	w := binary.LittleEndian.Uint32(text)
	rd, rn := code.Reg(w&31), code.Reg(w>>5&31)
	switch {
	case w>>26 == 0b000101:
		in.Op, in.Imm = code.Jump, relative(pc, w, 0, 26)
	case w>>26 == 0b100101:
		in.Op, in.Imm, in.Clobber = code.Call, relative(pc, w, 0, 26), 0
	case w>>24 == 0b01010100, w>>25&0x3f == 0b011010:
		in.Op, in.Imm = code.Branch, relative(pc, w, 5, 19)
	case w>>25&0x3f == 0b011011:
		in.Op, in.Imm = code.Branch, relative(pc, w, 5, 14)
	case w&0xfffffc1f == 0xd65f0000, w == 0xd65f0bff, w == 0xd65f0fff:
		in.Op = code.Return
	case w&0xfefff800 == 0xd61f0000:
		in.Op = code.JumpReg
	case w&0xfefff800 == 0xd63f0000:
		in.Op = code.CallReg
	case w == 0xd4000001:
		in.Op = code.Syscall
	case w>>24 == 0xd4, w>>16 == 0:
		in.Op = code.Trap
	case w>>23&0xff == 0b10100101: // movz
		in.Op, in.Dst, in.Imm = code.Const, rd, int64(w>>5&0xffff)<<(w>>21&3*16)
	case w>>23&0xff == 0b00100101: // movn
		in.Op, in.Dst, in.Imm, in.Narrow = code.Const, rd, ^(int64(w>>5&0xffff) << (w >> 21 & 3 * 16)), w>>31 == 0
	case w&0x7fe0ffe0 == 0x2a0003e0: // mov
		move(in, rd, code.Reg(w>>16&31))
		in.Narrow = w>>31 == 0
	case w>>23&0xff == 0b01100100 && rn == zero: // mov, by way of orr
		if v, ok := bitmask(w); ok {
			in.Op, in.Dst, in.Imm, in.Narrow = code.Const, rd, v, w>>31 == 0
		} else {
			in.Clobber = 1 << rd
		}
	case w>>24&0x1f == 0b10000:
		address(in, w, pc, rd)
	case w>>23&0x3f == 0b100010: // add, sub immediate
		addImmediate(in, w, rd, rn)
	case w>>22 == 0b1111100101, w>>22 == 0b1011100101: // ldr, unsigned offset
		in.Op, in.Dst, in.Src, in.Imm, in.Narrow = code.Load, rd, rn, int64(w>>10&0xfff)<<(w>>30), w>>30 == 2
	case w>>22 == 0b1011100110: // ldrsw
		in.Op, in.Dst, in.Src, in.Imm, in.Narrow = code.Load, rd, rn, int64(w>>10&0xfff)<<2, true
	case w>>22 == 0b1111100100, w>>22 == 0b1011100100: // str
		in.Op, in.Dst, in.Src, in.Imm = code.Store, rn, rd, int64(w>>10&0xfff)<<(w>>30)
		if rd == zero {
			in.Src = code.None
		}
	default:
		other(in, w, rd, rn)
	}
}

// relative is a signed field of words behind pc.
func relative(pc uint64, w uint32, shift, n uint) int64 {
	v := int64(w>>shift&(1<<n-1)) << (64 - n) >> (64 - n)
	return int64(pc) + v*4
}

func move(in *code.Inst, to, from code.Reg) {
	if from == zero {
		in.Op, in.Dst = code.Const, to
		return
	}
	in.Op, in.Dst, in.Src = code.Move, to, from
}

// address is adr or adrp.
func address(in *code.Inst, w uint32, pc uint64, rd code.Reg) {
	v := int64(w>>5&0x7ffff<<2|w>>29&3) << 43 >> 43
	in.Op, in.Dst, in.Imm = code.Addr, rd, int64(pc)+v
	if w>>31 == 1 {
		in.Op, in.Imm = code.Const, int64(pc&^0xfff)+v<<12
	}
}

func addImmediate(in *code.Inst, w uint32, rd, rn code.Reg) {
	v := int64(w >> 10 & 0xfff)
	if w>>22&1 == 1 {
		v <<= 12
	}
	if w>>30&1 == 1 {
		v = -v
	}
	if w>>29&1 == 1 { // adds, subs, cmp: 31 is zero there
		if rd != zero {
			in.Clobber = 1 << rd
		}
		return
	}
	in.Op, in.Dst, in.Src, in.Imm = code.Add, rd, rn, v
}

// other destroys what it may write.
func other(in *code.Inst, w uint32, rd, rn code.Reg) {
	load := w>>25&5 == 4 // loads and stores
	switch {
	case load && w>>26&1 == 1: // vectors
	case load && w>>22&1 == 0 && w>>27&7 == 5: // stp and the like
		if w>>23&3 == 2 { // at an offset
			in.Op, in.Dst, in.Src, in.Imm = code.Store, rn, rd, int64(w>>15&0x7f)<<57>>57*int64(4<<(w>>31))
			if in.Disp = int32(4 << (w >> 31)); rd == zero {
				in.Src = code.None
			}
		}
	case load:
		in.Clobber = 1 << rd
		if w>>27&7 == 5 { // pairs
			in.Clobber |= 1 << (w >> 10 & 31)
		}
		in.Clobber &^= 1 << zero
	case rd != zero:
		in.Clobber = 1 << rd
	}
	// Writing back the base: pairs, pre and post index.
	if load && (w>>27&7 == 5 && w>>23&1 == 1 || w>>27&7 == 7 && w>>24&3 == 0 && w>>10&1 == 1 && w>>21&1 == 0) {
		writeBack(in, w, rn)
	}
}

// writeBack moves the base register by an immediate. The stack pointer's move is kept, since it names slots.
func writeBack(in *code.Inst, w uint32, rn code.Reg) {
	if rn != SP {
		in.Clobber |= 1 << rn
		return
	}
	v := int64(w>>12&0x1ff) << 55 >> 55
	if w>>27&7 == 5 {
		scale := uint(3)
		if w>>31 == 0 {
			scale = 2
		}
		if w>>26&1 == 1 {
			scale = 2 + uint(w>>30)
		}
		v = int64(w>>15&0x7f) << 57 >> 57 << scale
	}
	in.Op, in.Dst, in.Src, in.Imm = code.Add, SP, SP, v
}

// bitmask decodes the immediate of a logical instruction (DecodeBitMasks of the manual).
func bitmask(w uint32) (int64, bool) {
	n, immr, imms := w>>22&1, w>>16&63, w>>10&63
	length := bits.Len32(n<<6|^imms&63) - 1
	if length < 1 {
		return 0, false
	}
	size := uint32(1) << length
	s, r := imms&(size-1), immr&(size-1)
	if s == size-1 {
		return 0, false
	}
	element := uint64(1)<<(s+1) - 1
	if r > 0 {
		element = element>>r | element<<(size-r)
		if size < 64 {
			element &= 1<<size - 1
		}
	}
	for ; size < 64; size *= 2 {
		element |= element << size
	}
	return int64(element), true
}
