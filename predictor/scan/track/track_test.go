package track

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/scan/code"
	"forefend.dev/forefend/predictor/scan/x86"
)

// function decodes hand-assembled bytes.
func function(t testing.TB, bytes string) Function {
	t.Helper()
	text, err := hex.DecodeString(strings.ReplaceAll(bytes, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	f := Function{Convention: &x86.Convention}
	for pc := uint64(0); pc < uint64(len(text)); {
		s := Step{PC: pc}
		x86.Decode(text[pc:], pc, &s.Inst)
		f.Steps = append(f.Steps, s)
		pc += uint64(s.Len)
	}
	return f
}

func show(v Value) string {
	slices.Sort(v.Consts)
	return strings.TrimSpace(fmt.Sprintf("%v args=%x unknown=%v", v.Consts, v.Args, v.Unknown))
}

// The value of RAX at each system call.
func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		name, bytes, want string
	}{
		{"constant", "b827000000 0f05 c3", "[39] args=0 unknown=false"},
		{"through a register", "41b9ca000000 4489c8 0f05", "[202] args=0 unknown=false"},
		{"one of two", "85ff 7407 b801000000 eb05 b802000000 0f05", "[1 2] args=0 unknown=false"},
		{"conditional move", "b801000000 ba02000000 0f44c2 0f05", "[1 2] args=0 unknown=false"},
		{"arithmetic of a choice", "83ff01 19c0 83e003 83c068 0f05", "[104 107] args=0 unknown=false"},
		{"found to be zero", "8b07 85c0 7401 c3 0f05", "[0] args=0 unknown=false"},
		{"lowest byte", "31c0 b038 0f05", "[56] args=0 unknown=false"},
		{"the first argument", "4889f8 0f05 c3", "[] args=80 unknown=false"},
		{"an argument on the stack", "488b442408 0f05 c3", "[] args=100000000 unknown=false"},
		{"spilt and reloaded over a call", "4883ec18 48c744240827000000 e800000000 488b442408 0f05", "[39] args=0 unknown=false"},
		{"spilt where the callee may write", "4883ec18 48c744240827000000 488d7c2408 e800000000 488b442408 0f05", "[] args=0 unknown=true"},
		{"pushed and popped", "6a27 58 0f05", "[39] args=0 unknown=false"},
		{"frame pointer", "55 4889e5 4883ec10 c745fc27000000 8b45fc 0f05", "[39] args=0 unknown=false"},
		{"destroyed by a call", "b827000000 e800000000 0f05", "[] args=0 unknown=true"},
		{"kept over a call", "bb27000000 e800000000 89d8 0f05", "[39] args=0 unknown=false"},
		{"from memory", "8b07 0f05", "[] args=0 unknown=true"},
		{"a loop that counts", "31c0 0f05 83c001 ebf9", "[] args=0 unknown=true"},
		{"padding before a loop is not reached", "b827000000 eb03 0f1f00 0f05", "[39] args=0 unknown=false"},
		{"behind a table", "ffe0 b827000000 0f05", "[39] args=0 unknown=false"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := function(t, c.bytes)
			var got []string
			f.Visit(func(s *Step) bool { return s.Op == code.Syscall }, func(_ *Step, c Context) {
				got = append(got, show(c.Register(x86.RAX)))
			})
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestCallsThatDoNotReturn(t *testing.T) {
	f := function(t, "41b9ca000000 7405 e800000000 4489c8 0f05") // the call destroys R9, but comes not back
	f.NoReturn = func(*Step) bool { return true }
	f.Visit(func(s *Step) bool { return s.Op == code.Syscall }, func(_ *Step, c Context) {
		if got := show(c.Register(x86.RAX)); got != "[202] args=0 unknown=false" {
			t.Error(got)
		}
	})
}

func TestVariables(t *testing.T) {
	f := function(t, "488b0500000000 0f05")
	f.Initial = func(addr uint64, bytes int) (int64, bool) { return 72, addr == 7 && bytes == 8 }
	f.Visit(func(s *Step) bool { return s.Op == code.Syscall }, func(_ *Step, c Context) {
		if got := show(c.Register(x86.RAX)); got != "[72] args=0 unknown=false" {
			t.Error(got)
		}
	})
}

// Whatever the code, the analysis ends, and says nothing about what it cannot know.
func FuzzVisit(f *testing.F) {
	f.Add([]byte("\x31\xc0\x0f\x05\x83\xc0\x01\xeb\xf9"))
	f.Add([]byte("\x55\x48\x89\xe5\xe8\x00\x00\x00\x00\x5d\xc3"))
	f.Fuzz(func(t *testing.T, text []byte) {
		fn := Function{Convention: &x86.Convention}
		for pc := uint64(0); pc < uint64(len(text)); {
			s := Step{PC: pc}
			x86.Decode(text[pc:], pc, &s.Inst)
			fn.Steps = append(fn.Steps, s)
			pc += uint64(s.Len)
		}
		fn.Visit(func(*Step) bool { return true }, func(_ *Step, c Context) {
			for r := range code.Reg(16) {
				if v := c.Register(r); len(v.Consts) > most || v.Unknown && (len(v.Consts) > 0 || v.Args != 0) {
					t.Errorf("register %d: %+v", r, v)
				}
			}
		})
	})
}
