// Package code is what the analysis needs to know of a machine instruction, whatever the machine: where control goes,
// which constants, addresses and copies registers get, and which registers lose what was known of them. The decoders
// are predictor/scan/x86 and arm64.
package code

// Reg is a general register by the machine's own number.
type Reg uint8

// None is no register.
const None Reg = 0xff

// Op is what an instruction does, as far as it matters.
type Op uint8

// The operations. Everything else is Other, which only destroys what Clobber says.
const (
	Other      Op = iota
	Bad           // not an instruction; Len is 1 (or 4), to go on behind it
	Const         // Dst = Imm
	Addr          // Dst = the address Imm
	Move          // Dst = Src
	CondMove      // Dst = Src, or not
	Add           // Dst = Src + Imm
	And           // Dst = Dst & Imm
	Choice        // Dst = 0 or Imm
	Byte          // the lowest byte of Dst = Imm
	Load          // Dst = memory at Src + Imm
	LoadAddr      // Dst = memory at the address Imm
	Store         // memory at Dst + Imm = Src; Disp, if not 0, is where a second, unknown, register goes, relative to it
	StoreConst    // memory at Dst + Disp = Imm; Dst may be None
	Push          // push Src; None: something unknown
	PushConst     // push Imm
	Pop           // Dst = pop
	Call          // call Imm
	CallMem       // call what is at the address Imm
	CallReg       // call through a register or through memory that is not at a known address
	Jump          // go to Imm
	JumpMem       // go to what is at the address Imm
	JumpReg       // go through a register, or a table
	Branch        // go to Imm, or on; Disp is IfZero, IfNotZero or something else
	Test          // compare Dst with zero, for the branch behind
	Return
	Trap    // does not go on
	Syscall // of the machine's own numbering
	Foreign // of another numbering: int 0x80, sysenter
)

// The conditions of a Branch that matter.
const (
	IfZero    = 1
	IfNotZero = 2
)

// Inst is one instruction.
type Inst struct {
	Op       Op
	Len      uint8
	Dst, Src Reg
	Narrow   bool   // the result has 32 bits, zero-extended
	Clobber  uint32 // registers, by bit, of which nothing is known afterwards, beside Dst
	Imm      int64
	Disp     int32
}

// Decoder decodes the instruction at the beginning of text, which is at address pc. It never reads beyond text; what
// it cannot decode is Bad.
type Decoder func(text []byte, pc uint64, in *Inst)

// Convention is how numbers and arguments travel.
type Convention struct {
	Number    Reg    // holds the system call's number
	Stack     Reg    // stack pointer
	Args      []Reg  // of C functions
	Volatile  uint32 // what a C function may destroy
	Kernel    uint32 // what the kernel destroys
	Registers int
	Pushes    int64 // bytes that a call puts on the stack
}
