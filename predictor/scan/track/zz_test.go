package track

import (
	"debug/elf"
	"fmt"
	"forefend.dev/forefend/predictor/scan/code"
	"forefend.dev/forefend/predictor/scan/x86"
	"os"
	"testing"
)

func TestZZ(t *testing.T) {
	f, _ := elf.Open("/tmp/scan-rootfs/nine/lib/x86_64-linux-gnu/libc.so.6")
	s := f.Section(".text")
	d, _ := s.Data()
	var a, b uint64
	fmt.Sscanf(os.Getenv("ZZ"), "%x-%x", &a, &b)
	if a == 0 {
		t.Skip()
	}
	var steps []Step
	for pc := a; pc < b; {
		st := Step{PC: pc}
		x86.Decode(d[pc-s.Addr:], pc, &st.Inst)
		steps = append(steps, st)
		pc += uint64(st.Len)
	}
	fn := Function{Steps: steps, Convention: &x86.Convention}
	fn.Visit(func(*Step) bool { return true }, func(s *Step, c Context) {
		fmt.Printf("%x op %d dst %d src %d imm %x clob %x | lost %v depth %d", s.PC, s.Op, s.Dst, s.Src, s.Imm, s.Clobber, c.st.lost, c.st.depth)
		for i, v := range c.st.regs {
			if len(v.Consts) > 0 {
				fmt.Printf(" r%d=%x", i, v.Consts)
			}
		}
		fmt.Println()
	})
	_ = code.Other
}
