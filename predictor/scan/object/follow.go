package object

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/scan/code"
	"forefend.dev/forefend/predictor/scan/track"
)

// special is an import whose argument says what happens.
type special struct {
	argument int
	dynamic  uint8 // what it means when the argument is not constant; 0: it is a system call's number
}

// specialImports are functions of the C library.
var specialImports = map[string]special{
	"syscall": {0, 0},
	"execve":  {0, ExecutesPath}, "execv": {0, ExecutesPath}, "execvp": {0, ExecutesPath}, "execvpe": {0, ExecutesPath},
	"execl": {0, ExecutesPath}, "execlp": {0, ExecutesPath}, "execle": {0, ExecutesPath}, "fexecve": {-1, ExecutesPath},
	"execveat": {1, ExecutesPath}, "posix_spawn": {1, ExecutesPath}, "posix_spawnp": {1, ExecutesPath},
	"system": {0, ExecutesCommand}, "popen": {0, ExecutesCommand}, "wordexp": {0, ExecutesCommand},
	"dlopen": {0, LoadsLibrary}, "dlmopen": {1, LoadsLibrary},
}

func specials(imports []string) map[int32]special {
	m := make(map[int32]special)
	for i, name := range imports {
		if s, ok := specialImports[name]; ok {
			m[int32(i)] = s
		}
	}
	return m
}

func (b *builder) unknown(fn int32, addr uint64, why string) {
	if len(b.obj.Unknown[fn]) < 8 {
		b.obj.Unknown[fn] = append(b.obj.Unknown[fn], Site{addr, why})
	}
}

// follow finds the numbers of system calls, first where they are made, then where the functions are called that get
// them as an argument; and the constant names given to functions that execute or load something.
func (b *builder) follow() {
	todo := make(map[int32]bool)
	for _, fn := range b.makers {
		todo[fn] = true
		for before := fn - 1; before >= 0 && b.continues(before); before-- { // the number may be set before the unwinding tables end
			todo[before] = true
		}
	}
	for fn := range b.starts {
		if b.inStubs(b.starts[fn]) {
			continue
		}
		for _, e := range b.edgesOf(fn) {
			if _, ok := b.special[^e]; e < 0 && ok {
				todo[int32(fn)] = true
			}
		}
	}
	for range 12 { // as deep as wrappers wrap each other
		before := maps.Clone(b.obj.Wrappers)
		for _, fn := range slices.Sorted(maps.Keys(todo)) {
			b.followOne(fn)
		}
		clear(todo)
		if maps.Equal(before, b.obj.Wrappers) {
			break
		}
		for fn := range b.starts {
			for _, e := range b.edgesOf(fn) {
				if e >= 0 && b.obj.Wrappers[e] != before[e] {
					todo[int32(fn)] = true
				}
			}
		}
	}
	for _, fn := range slices.Sorted(maps.Keys(b.obj.Wrappers)) {
		if b.taken[fn] && !b.exported(fn) {
			b.unknown(fn, b.starts[fn], "the number of the system call is an argument, and the function is called through a pointer")
		}
	}
	for fn, numbers := range b.obj.Numbers {
		slices.Sort(numbers)
		b.obj.Numbers[fn] = slices.Compact(numbers)
	}
}

// edgesOf are those of one function.
func (b *builder) edgesOf(fn int) []int32 { return b.obj.Edges[b.obj.First[fn]:b.obj.First[fn+1]] }

func (b *builder) exported(fn int32) bool {
	return slices.Contains(b.obj.Exports["syscall"], fn)
}

// continues tells whether fn runs into a piece that is no function of its own.
func (b *builder) continues(fn int32) bool {
	return b.falls[fn] && !b.framed[fn+1] && b.starts[fn+1] == b.ends[fn]
}

func (b *builder) steps(fn int32) []track.Step {
	start, end := b.starts[fn], b.ends[fn]
	for next := fn; b.continues(next); next++ {
		end = b.ends[next+1]
	}
	return b.stepsOf(start, end)
}

// stepsOf decodes a stretch of code.
func (b *builder) stepsOf(start, end uint64) []track.Step {
	text := b.at(start)
	text = text[:min(uint64(len(text)), end-start)]
	steps := make([]track.Step, 0, len(text)/4)
	for pc := start; len(text) > 0; {
		s := track.Step{PC: pc}
		b.decode(text, pc, &s.Inst)
		n := min(int(s.Len), len(text))
		steps = append(steps, s)
		text, pc = text[n:], pc+uint64(n)
	}
	return steps
}

// use is what a step does that matters: it makes a call, or calls a special import or a wrapper.
type use struct {
	syscall bool
	special *special
	wrapper uint64 // arguments
}

func (b *builder) use(s *track.Step) (u use, ok bool) {
	switch s.Op {
	case code.Syscall:
		return use{syscall: true}, true
	case code.CallMem, code.JumpMem:
		if i, known := b.slots[uint64(s.Imm)]; known {
			if sp, known := b.special[i]; known {
				return use{special: &sp}, true
			}
		}
	case code.Call, code.Jump, code.Branch:
		to := uint64(s.Imm)
		if fn, exact := b.exact(to); exact {
			if mask := b.obj.Wrappers[fn]; mask != 0 {
				return use{wrapper: mask}, true
			}
		}
		if i, known := b.stub(to); known {
			if sp, known := b.special[i]; known {
				return use{special: &sp}, true
			}
		}
	}
	return use{}, false
}

// followOne tracks values through one function and notes what its uses get.
func (b *builder) followOne(fn int32) {
	delete(b.obj.Unknown, fn)
	delete(b.obj.Commands, fn)
	found := b.followSteps(fn, b.steps(fn))
	for _, e := range b.edgesOf(int(fn)) {
		sp, ok := b.special[^e]
		if e >= 0 || !ok || found[sp.dynamic] {
			continue
		}
		if b.obj.Dynamic[fn] |= sp.dynamic; sp.dynamic == 0 { // the pointer is passed on
			b.unknown(fn, b.starts[fn], "takes the address of syscall()")
		}
	}
}

// followSteps tracks values through steps, notes on behalf of fn what their uses get, and returns which kinds there were.
func (b *builder) followSteps(fn int32, steps []track.Step) map[uint8]bool {
	f := track.Function{Steps: steps, Convention: b.convention, KeepsNone: b.obj.Go, NoReturn: b.noReturn}
	if b.obj.Go {
		f.Initial = b.initial
	}
	found := make(map[uint8]bool)
	f.Visit(func(s *track.Step) bool { _, ok := b.use(s); return ok }, func(s *track.Step, c track.Context) {
		u, _ := b.use(s)
		switch {
		case u.syscall:
			b.number(fn, s.PC, c.Register(b.convention.Number), &c)
		case u.wrapper != 0:
			for bit := range 64 {
				if u.wrapper>>bit&1 == 1 {
					b.number(fn, s.PC, c.Argument(b.argumentBit(s, bit)), nil)
				}
			}
		case u.special.dynamic == 0:
			found[0] = true
			b.number(fn, s.PC, c.Register(b.convention.Args[u.special.argument]), nil)
		default:
			found[u.special.dynamic] = true
			b.command(fn, u.special, &c)
		}
	})
	return found
}

// endlessImports do not come back.
var endlessImports = map[string]bool{
	"abort": true, "exit": true, "_exit": true, "_Exit": true, "__stack_chk_fail": true, "__assert_fail": true, "__fortify_fail": true,
	"longjmp": true, "_longjmp": true, "siglongjmp": true, "__longjmp_chk": true, "__cxa_throw": true, "__cxa_rethrow": true,
	"_Unwind_Resume": true, "__libc_fatal": true, "__chk_fail": true, "pthread_exit": true, "err": true, "errx": true,
}

// noReturn tells whether a call does not come back.
func (b *builder) noReturn(s *track.Step) bool {
	if s.Op == code.CallMem {
		i, ok := b.slots[uint64(s.Imm)]
		return ok && endlessImports[b.obj.Imports[i]]
	}
	if i, ok := b.stub(uint64(s.Imm)); ok {
		return endlessImports[b.obj.Imports[i]]
	}
	fn, ok := b.exact(uint64(s.Imm))
	return ok && (b.endless[fn] || b.panics(fn))
}

// initial is the value that a variable has in the file.
func (b *builder) initial(addr uint64, bytes int) (int64, bool) {
	d := b.at(addr)
	switch {
	case len(d) < 8 || b.executable(addr):
		return 0, false
	case bytes == 4:
		return int64(binary.LittleEndian.Uint32(d)), true
	}
	return int64(binary.LittleEndian.Uint64(d)), true
}

// panics names the functions of Go's runtime that do not come back.
func (b *builder) panics(fn int32) bool {
	if !b.obj.Go {
		return false
	}
	name := b.goNames(b.starts[fn])
	for _, prefix := range []string{"runtime.panic", "runtime.gopanic", "runtime.goPanic", "runtime.throw", "runtime.fatal", "runtime.sigpanic"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// argumentBit is where an argument is before the call: on the stack the return address is not there yet.
func (b *builder) argumentBit(s *track.Step, bit int) int {
	if bit >= track.StackArg && s.Op != code.Call { // a tail call finds the stack as it is, the return address included
		return bit + int(b.convention.Pushes/8)
	}
	return bit
}

// number notes the value of a system call's number. c is given where the call is made.
func (b *builder) number(fn int32, pc uint64, v track.Value, c *track.Context) {
	for _, n := range v.Consts {
		switch {
		case n >= 0 && n < 1024:
			b.obj.Numbers[fn] = append(b.obj.Numbers[fn], int32(n))
		case n == -1: // a placeholder that the kernel refuses
		case n < -1<<32: // an address on the stack: not a number that was followed
			v.Unknown = true
		default:
			b.unknown(fn, pc, fmt.Sprintf("calls the kernel with the impossible number %d", n))
		}
	}
	b.obj.Wrappers[fn] |= v.Args
	if b.obj.Wrappers[fn] == 0 {
		delete(b.obj.Wrappers, fn)
	}
	if !v.Unknown || b.data[fn] || b.passesOn(fn) {
		return
	}
	fromMemory := c != nil && v.Memory && (b.machine == machineARM64 || c.Register(b.convention.Args[0]).Memory)
	if fromMemory && b.changesIdentity() {
		b.obj.Numbers[fn] = append(b.obj.Numbers[fn], b.identityCalls()...)
		return
	}
	b.unknown(fn, pc, "the number of the system call is not constant")
}

// changesIdentity tells whether the file has the C library's set*id functions: they make every thread do the call that a
// structure in memory describes, and each has its own number as a constant beside.
func (b *builder) changesIdentity() bool {
	return len(b.obj.Exports["setuid"]) > 0 || b.obj.Static && !b.obj.Go
}

// identityCalls are setuid, setgid, setreuid, setregid, setgroups, setresuid and setresgid.
func (b *builder) identityCalls() []int32 {
	if b.obj.Arch == "arm64" {
		return []int32{143, 144, 145, 146, 147, 149, 159}
	}
	return []int32{105, 106, 113, 114, 116, 117, 119}
}

// passesOn names the functions of Go that repeat a call on every thread; its number is a constant where they are called.
func (b *builder) passesOn(fn int32) bool {
	switch b.goNames(b.starts[fn]) {
	case "runtime.runPerThreadSyscall", "runtime.(*m).runPerThreadSyscall", "runtime.doAllThreadsSyscall",
		"runtime.syscall_runtime_doAllThreadsSyscall", "syscall.runtime_doAllThreadsSyscall":
		return true
	}
	return false
}

// command notes a constant name given to a function that executes or loads it.
func (b *builder) command(fn int32, sp *special, c *track.Context) {
	var v track.Value
	if sp.argument >= 0 {
		v = c.Register(b.convention.Args[sp.argument])
	}
	for _, addr := range v.Consts {
		if text := b.text(uint64(addr)); text != "" && !slices.Contains(b.obj.Commands[fn], text) {
			b.obj.Commands[fn] = append(b.obj.Commands[fn], text)
		} else if addr != 0 && text == "" {
			b.obj.Dynamic[fn] |= sp.dynamic
		}
	}
	if len(v.Consts) == 0 || v.Unknown || v.Args != 0 {
		b.obj.Dynamic[fn] |= sp.dynamic
	}
}
