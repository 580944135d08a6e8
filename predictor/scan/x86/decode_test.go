package x86

import (
	"debug/elf"
	"encoding/hex"
	"os"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"forefend.dev/forefend/predictor/scan/code"
)

func TestMeaning(t *testing.T) {
	const pc = 0x1000
	for _, c := range []struct {
		name, bytes string
		want        code.Inst
	}{
		{"syscall", "0f05", code.Inst{Op: code.Syscall, Len: 2, Dst: code.None, Src: code.None, Narrow: true}},
		{"sysenter", "0f34", code.Inst{Op: code.Foreign, Len: 2, Dst: code.None, Src: code.None, Narrow: true}},
		{"int 0x80", "cd80", code.Inst{Op: code.Foreign, Len: 2, Dst: code.None, Src: code.None, Narrow: true, Clobber: 1}},
		{"mov eax, 59", "b83b000000", code.Inst{Op: code.Const, Len: 5, Dst: RAX, Src: code.None, Narrow: true, Imm: 59}},
		{"mov rax, 15", "48c7c00f000000", code.Inst{Op: code.Const, Len: 7, Dst: RAX, Src: code.None, Imm: 15}},
		{"mov r9d, 202", "41b9ca000000", code.Inst{Op: code.Const, Len: 6, Dst: R9, Src: code.None, Narrow: true, Imm: 202}},
		{"xor eax, eax", "31c0", code.Inst{Op: code.Const, Len: 2, Dst: RAX, Src: code.None, Narrow: true}},
		{"mov eax, r8d", "4489c0", code.Inst{Op: code.Move, Len: 3, Dst: RAX, Src: R8, Narrow: true}},
		{"mov rax, rdi", "4889f8", code.Inst{Op: code.Move, Len: 3, Dst: RAX, Src: RDI}},
		{"mov rax, [rsp+8]", "488b442408", code.Inst{Op: code.Load, Len: 5, Dst: RAX, Src: RSP, Imm: 8}},
		{"mov [rsp+8], rax", "4889442408", code.Inst{Op: code.Store, Len: 5, Dst: RSP, Src: RAX, Imm: 8}},
		{"mov qword [rsp], 39", "48c7042427000000", code.Inst{Op: code.StoreConst, Len: 8, Dst: RSP, Src: code.None, Imm: 39}},
		{"lea rdi, [rip+16]", "488d3d10000000", code.Inst{Op: code.Addr, Len: 7, Dst: RDI, Src: code.None, Imm: pc + 7 + 16}},
		{"mov rax, [rip+16]", "488b0510000000", code.Inst{Op: code.LoadAddr, Len: 7, Dst: RAX, Src: code.None, Imm: pc + 7 + 16}},
		{"mov rax, fs:[40]", "64488b042528000000", code.Inst{Len: 9, Dst: code.None, Src: code.None, Clobber: 1}},
		{"call", "e8fbffffff", code.Inst{Op: code.Call, Len: 5, Dst: code.None, Src: code.None, Narrow: true, Imm: pc}},
		{"call [rip]", "ff1500000000", code.Inst{Op: code.CallMem, Len: 6, Dst: code.None, Src: code.None, Narrow: true, Imm: pc + 6}},
		{"bnd jmp [rip]", "f2ff2500000000", code.Inst{Op: code.JumpMem, Len: 7, Dst: code.None, Src: code.None, Narrow: true, Imm: pc + 7}},
		{"jmp rax", "ffe0", code.Inst{Op: code.JumpReg, Len: 2, Dst: code.None, Src: code.None, Narrow: true}},
		{"je", "74fe", code.Inst{Op: code.Branch, Len: 2, Dst: code.None, Src: code.None, Narrow: true, Imm: pc, Disp: code.IfZero}},
		{"ret", "c3", code.Inst{Op: code.Return, Len: 1, Dst: code.None, Src: code.None, Narrow: true}},
		{"sub rsp, 24", "4883ec18", code.Inst{Op: code.Add, Len: 4, Dst: RSP, Src: RSP, Imm: -24}},
		{"push rbx", "53", code.Inst{Op: code.Push, Len: 1, Dst: code.None, Src: RBX, Narrow: true}},
		{"shl esi, 7", "c1e607", code.Inst{Len: 3, Dst: code.None, Src: code.None, Narrow: true, Clobber: 1 << RSI}},
		{"setne r8b", "410f95c0", code.Inst{Len: 4, Dst: code.None, Src: code.None, Narrow: true, Clobber: 1 << R8}},
		{"pxor xmm0, xmm0", "660fefc0", code.Inst{Len: 4, Dst: code.None, Src: code.None, Narrow: true}},
		{"vzeroupper", "c5f877", code.Inst{Len: 3, Dst: code.None, Src: code.None}},
		{"cmp rax, [rip]", "483b0500000000", code.Inst{Op: code.LoadAddr, Len: 7, Dst: code.None, Src: code.None, Imm: pc + 7}},
		{"cut short", "e8fbff", code.Inst{Op: code.Bad, Len: 1, Dst: code.None, Src: code.None, Clobber: 0xffff}},
		{"push es", "06", code.Inst{Op: code.Bad, Len: 1, Dst: code.None, Src: code.None, Clobber: 0xffff}},
	} {
		b, err := hex.DecodeString(c.bytes)
		if err != nil {
			t.Fatal(err)
		}
		var got code.Inst
		Decode(b, pc, &got)
		if got != c.want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

// The lengths of all instructions of this very test program are those that x86asm finds.
func TestLengths(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		t.Skip("this program is not for x86-64")
	}
	text, err := f.Section(".text").Data()
	if err != nil {
		t.Fatal(err)
	}
	compared, differ := 0, 0
	for pos := 0; pos < len(text); {
		var in code.Inst
		Decode(text[pos:], uint64(pos), &in)
		theirs, err := x86asm.Decode(text[pos:], 64)
		if err == nil && theirs.Op != 0 && text[pos] != 0xc5 && text[pos] != 0xc4 && text[pos] != 0x62 {
			compared++
			if theirs.Len != int(in.Len) {
				if differ++; differ < 10 {
					t.Logf("%#x: % x: %d, x86asm %d %s", pos, text[pos:min(len(text), pos+12)], in.Len, theirs.Len, theirs)
				}
			}
			pos += theirs.Len
			continue
		}
		pos += int(in.Len) // x86asm knows no AVX
	}
	if compared < 100_000 || differ > 0 {
		t.Errorf("%d of %d lengths differ", differ, compared)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"0f05", "62f17c48100424", "c4e2790004", "66666666666690", "48b8ffffffffffffffff", "f0480fb10d00000000"} {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in code.Inst
		Decode(b, 1<<40, &in)
		if in.Len == 0 || in.Len > 15 || in.Op != code.Bad && int(in.Len) > len(b) {
			t.Errorf("% x: length %d", b, in.Len)
		}
		if in.Dst != code.None && in.Dst > 15 || in.Src != code.None && in.Src > 15 || in.Clobber > 0xffff {
			t.Errorf("% x: %+v", b, in)
		}
	})
}
