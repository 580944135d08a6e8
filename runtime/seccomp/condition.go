package seccomp

import (
	"fmt"
	"math/bits"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxArgs is how many arguments a system call has.
const maxArgs = 6

// operator compares one scalar argument; the values are part of the table's format.
type operator uint8

const (
	opEqual operator = iota + 1
	opNotEqual
	opLess
	opLessEqual
	opGreaterEqual
	opGreater
	opMaskedEqual
	opLast = opMaskedEqual
)

var operatorNames = map[specs.LinuxSeccompOperator]operator{
	specs.OpEqualTo: opEqual, specs.OpNotEqual: opNotEqual, specs.OpLessThan: opLess, specs.OpLessEqual: opLessEqual,
	specs.OpGreaterEqual: opGreaterEqual, specs.OpGreaterThan: opGreater, specs.OpMaskedEqual: opMaskedEqual,
}

// condition is one comparison of one argument, as libseccomp makes it. For
// opMaskedEqual value is the mask and value2 what must remain.
type condition struct {
	arg    uint8
	op     operator
	value  uint64
	value2 uint64
}

func (c condition) holds(args *[maxArgs]uint64, width32 bool) bool {
	arg, value, value2 := args[c.arg], c.value, c.value2
	if width32 {
		// A 32-bit program's arguments are compared as 32 bits by the filter.
		arg, value, value2 = arg&0xffffffff, value&0xffffffff, value2&0xffffffff
	}
	switch c.op {
	case opEqual:
		return arg == value
	case opNotEqual:
		return arg != value
	case opLess:
		return arg < value
	case opLessEqual:
		return arg <= value
	case opGreaterEqual:
		return arg >= value
	case opGreater:
		return arg > value
	case opMaskedEqual:
		return arg&value == value2
	}
	return false
}

// readCondition turns an OCI argument rule into a condition.
func readCondition(arg specs.LinuxSeccompArg) (condition, error) {
	op, ok := operatorNames[arg.Op]
	if !ok {
		return condition{}, fmt.Errorf("seccomp operator %q is unknown", arg.Op)
	}
	if arg.Index >= maxArgs {
		return condition{}, fmt.Errorf("seccomp argument index %d is not below %d", arg.Index, maxArgs)
	}
	return condition{arg: uint8(arg.Index), op: op, value: arg.Value, value2: arg.ValueTwo}, nil
}

// alternatives reads the argument rules of one OCI rule as runc does: all must
// hold, except that when two of them look at the same argument each becomes a
// rule of its own (runc's "old behaviour"), so that any one suffices.
func alternatives(args []specs.LinuxSeccompArg) ([][]condition, error) {
	var seen [maxArgs]bool
	all, repeated := make([]condition, 0, len(args)), false
	for _, a := range args {
		c, err := readCondition(a)
		if err != nil {
			return nil, err
		}
		repeated = repeated || seen[c.arg]
		seen[c.arg] = true
		all = append(all, c)
	}
	if !repeated {
		return [][]condition{all}, nil
	}
	separate := make([][]condition, 0, len(all))
	for _, c := range all {
		separate = append(separate, []condition{c})
	}
	return separate, nil
}

// negation maps each operator but masked-equal to its opposite.
var negation = map[specs.LinuxSeccompOperator]specs.LinuxSeccompOperator{
	specs.OpEqualTo: specs.OpNotEqual, specs.OpNotEqual: specs.OpEqualTo,
	specs.OpLessThan: specs.OpGreaterEqual, specs.OpGreaterEqual: specs.OpLessThan,
	specs.OpGreaterThan: specs.OpLessEqual, specs.OpLessEqual: specs.OpGreaterThan,
}

// negate returns argument rules of which at least one holds exactly where arg
// does not. "The masked bits differ from v" has no operator: it becomes one rule
// a bit. An empty result means that arg always holds.
func negate(arg specs.LinuxSeccompArg) []specs.LinuxSeccompArg {
	if op, ok := negation[arg.Op]; ok {
		arg.Op, arg.ValueTwo = op, 0
		return []specs.LinuxSeccompArg{arg}
	}
	if arg.ValueTwo&^arg.Value != 0 {
		// Such a rule never matches, so its negation is "always".
		return []specs.LinuxSeccompArg{{Index: arg.Index, Op: specs.OpMaskedEqual}}
	}
	var out []specs.LinuxSeccompArg
	for mask := arg.Value; mask != 0; mask &= mask - 1 {
		bit := uint64(1) << bits.TrailingZeros64(mask)
		out = append(out, specs.LinuxSeccompArg{Index: arg.Index, Op: specs.OpMaskedEqual, Value: bit, ValueTwo: ^arg.ValueTwo & bit})
	}
	return out
}
