package arm64

import (
	"encoding/binary"
	"testing"

	"forefend.dev/forefend/predictor/scan/code"
)

func TestMeaning(t *testing.T) {
	const pc = 0x10000
	none := code.None
	for _, c := range []struct {
		name string
		word uint32
		want code.Inst
	}{
		{"svc #0", 0xd4000001, code.Inst{Op: code.Syscall, Dst: none, Src: none}},
		{"mov x8, #221", 0xd2801ba8, code.Inst{Op: code.Const, Dst: 8, Src: none, Imm: 221}},
		{"mov w0, #-100", 0x12800c60, code.Inst{Op: code.Const, Dst: 0, Src: none, Imm: -100, Narrow: true}},
		{"mov x8, x0", 0xaa0003e8, code.Inst{Op: code.Move, Dst: 8, Src: 0}},
		{"mov x1, xzr", 0xaa1f03e1, code.Inst{Op: code.Const, Dst: 1, Src: none}},
		{"bl +8", 0x94000002, code.Inst{Op: code.Call, Dst: none, Src: none, Imm: pc + 8}},
		{"b -4", 0x17ffffff, code.Inst{Op: code.Jump, Dst: none, Src: none, Imm: pc - 4}},
		{"b.ne +16", 0x54000081, code.Inst{Op: code.Branch, Dst: none, Src: none, Imm: pc + 16}},
		{"cbz x0, +16", 0xb4000080, code.Inst{Op: code.Branch, Dst: none, Src: none, Imm: pc + 16}},
		{"tbnz w0, #3, +16", 0x37180080, code.Inst{Op: code.Branch, Dst: none, Src: none, Imm: pc + 16}},
		{"ret", 0xd65f03c0, code.Inst{Op: code.Return, Dst: none, Src: none}},
		{"br x17", 0xd61f0220, code.Inst{Op: code.JumpReg, Dst: none, Src: none}},
		{"blr x1", 0xd63f0020, code.Inst{Op: code.CallReg, Dst: none, Src: none}},
		{"adrp x16, +4096", 0xb0000010, code.Inst{Op: code.Const, Dst: 16, Src: none, Imm: pc + 4096}},
		{"adr x0, +4", 0x10000020, code.Inst{Op: code.Addr, Dst: 0, Src: none, Imm: pc + 4}},
		{"add x0, x0, #16", 0x91004000, code.Inst{Op: code.Add, Dst: 0, Src: 0, Imm: 16}},
		{"sub sp, sp, #32", 0xd10083ff, code.Inst{Op: code.Add, Dst: SP, Src: SP, Imm: -32}},
		{"ldr x17, [x16, #8]", 0xf9400611, code.Inst{Op: code.Load, Dst: 17, Src: 16, Imm: 8}},
		{"ldrsw x8, [x3]", 0xb9800068, code.Inst{Op: code.Load, Dst: 8, Src: 3, Narrow: true}},
		{"str x0, [sp, #8]", 0xf90007e0, code.Inst{Op: code.Store, Dst: SP, Src: 0, Imm: 8}},
		{"stp x29, x30, [sp, #-16]!", 0xa9bf7bfd, code.Inst{Op: code.Add, Dst: SP, Src: SP, Imm: -16}},
		{"ldp x29, x30, [sp], #16", 0xa8c17bfd, code.Inst{Op: code.Add, Dst: SP, Src: SP, Imm: 16, Clobber: 1<<29 | 1<<30}},
		{"mov x0, #64", 0xb27a03e0, code.Inst{Op: code.Const, Dst: 0, Src: none, Imm: 64}},
		{"mov w0, #0xff", 0x32001fe0, code.Inst{Op: code.Const, Dst: 0, Src: none, Imm: 0xff000000ff, Narrow: true}},
		{"stp x1, x2, [sp, #16]", 0xa9010be1, code.Inst{Op: code.Store, Dst: SP, Src: 1, Imm: 16, Disp: 8}},
		{"nop", 0xd503201f, code.Inst{Op: code.Other, Dst: none, Src: none}},
		{"udf", 0, code.Inst{Op: code.Trap, Dst: none, Src: none}},
		{"mul x0, x1, x2", 0x9b027c20, code.Inst{Op: code.Other, Dst: none, Src: none, Clobber: 1}},
	} {
		c.want.Len = 4
		var got code.Inst
		Decode(binary.LittleEndian.AppendUint32(nil, c.word), pc, &got)
		if got != c.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0xd4})
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		var in code.Inst
		Decode(b, 1<<40, &in)
		if len(b) >= 4 && in.Len != 4 || in.Len == 0 || in.Dst != code.None && in.Dst > 31 || in.Src != code.None && in.Src > 31 {
			t.Errorf("% x: %+v", b, in)
		}
	})
}
