package pdp

import (
	"math"
	"net/netip"
	"regexp"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// verdict is what a condition is for a reading. Opaque parts make it unknown until CEL is asked.
type verdict uint8

const (
	no verdict = iota
	yes
	unknown
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// kind is what a node of a condition compares.
type kind uint8

const (
	opaque   kind = iota // something that only CEL evaluates
	all                  // of kids
	some                 // of kids
	exact                // text is one of values
	prefix               // text begins with value
	suffix               // text ends with value
	contains             // value is in text
	matches              // the regular expression is found in text
	between              // number is in [low, high]
	address              // destination is one of addrs
	network              // destination is in one of nets
)

// node is a condition, or a part of it, in negation normal form: only comparisons are negated. What CEL means by && and ||
// with a part that fails, false and true win over it, is what all and some mean by a kid that is unknown.
type node struct {
	kind      kind
	not       bool // of comparisons
	field     field
	value     string
	values    map[string]struct{}
	regex     *regexp.Regexp
	low, high int64
	addrs     []netip.Addr
	net       netip.Prefix
	kids      []node
}

// eval evaluates without CEL, as far as that goes.
func (n *node) eval(r *reading) verdict {
	switch n.kind {
	case opaque:
		return unknown
	case all, some:
		ends, result := no, yes
		if n.kind == some {
			ends, result = yes, no
		}
		for i := range n.kids {
			switch n.kids[i].eval(r) {
			case ends:
				return ends
			case unknown:
				result = unknown
			}
		}
		return result
	}
	r.seen |= n.field.bit()
	return verdictOf(n.compare(r) != n.not)
}

func (n *node) compare(r *reading) bool {
	switch n.kind {
	case exact:
		if n.values == nil {
			return r.text[n.field] == n.value
		}
		_, ok := n.values[r.text[n.field]]
		return ok
	case prefix:
		return strings.HasPrefix(r.text[n.field], n.value)
	case suffix:
		return strings.HasSuffix(r.text[n.field], n.value)
	case contains:
		return strings.Contains(r.text[n.field], n.value)
	case matches:
		return n.regex.MatchString(r.text[n.field])
	case between:
		v := r.number[n.field-firstNumber]
		return n.low <= v && v <= n.high
	case address:
		for _, a := range n.addrs {
			if a == r.addr {
				return true
			}
		}
		return false
	}
	return n.net.Contains(r.addr) // network
}

// extract turns a checked expression, or its negation, into a node. What it does not know is opaque.
func extract(e celast.Expr, not bool) node {
	if b, ok := literal[types.Bool](e); ok {
		if bool(b) != not {
			return node{kind: all}
		}
		return node{kind: some}
	}
	if e.Kind() != celast.CallKind {
		return node{}
	}
	call := e.AsCall()
	args := call.Args()
	switch call.FunctionName() {
	case operators.LogicalAnd:
		return join(all, some, args, not)
	case operators.LogicalOr:
		return join(some, all, args, not)
	case operators.LogicalNot:
		return extract(args[0], !not)
	case operators.Equals:
		return compare(args[0], args[1], same, not)
	case operators.NotEquals:
		return compare(args[0], args[1], same, !not)
	case operators.Less:
		return compare(args[0], args[1], less, not)
	case operators.Greater:
		return compare(args[0], args[1], greater, not)
	case operators.LessEquals:
		return compare(args[0], args[1], greater, !not)
	case operators.GreaterEquals:
		return compare(args[0], args[1], less, !not)
	case operators.In:
		return among(args[0], args[1], not)
	case "startsWith", "endsWith", "contains", "matches", "within":
		return member(call, not)
	}
	return node{}
}

// join makes a node of the arguments of && or ||, flattening those of the same kind.
func join(kind, negated kind, args []celast.Expr, not bool) node {
	if not {
		kind = negated
	}
	n := node{kind: kind}
	for _, a := range args {
		if kid := extract(a, not); kid.kind == kind {
			n.kids = append(n.kids, kid.kids...)
		} else {
			n.kids = append(n.kids, kid)
		}
	}
	return n
}

// fieldOf is the field that e names; none: fields.
func fieldOf(e celast.Expr) field {
	if e.Kind() == celast.IdentKind {
		if f, ok := byName[e.AsIdent()]; ok {
			return f
		}
	}
	return fields
}

// The comparisons of two values.
type order uint8

const (
	same order = iota
	less
	greater
)

func compare(a, b celast.Expr, o order, not bool) node {
	f := fieldOf(a)
	if f == fields { // "x" == field
		f, b = fieldOf(b), a
		switch o {
		case less:
			o = greater
		case greater:
			o = less
		}
	}
	if text, ok := literal[types.String](b); ok && o == same {
		switch {
		case f < texts:
			return node{kind: exact, field: f, value: string(text), not: not}
		case f == destination:
			return addresses([]string{string(text)}, not)
		}
	}
	if v, ok := literal[types.Int](b); ok && f >= firstNumber && f < numbers {
		n := node{kind: between, field: f, low: int64(v), high: int64(v), not: not}
		switch o {
		case less:
			n.low = math.MinInt64
			if n.high--; v == math.MinInt64 {
				return extract(falsehood, not)
			}
		case greater:
			n.high = math.MaxInt64
			if n.low++; v == math.MaxInt64 {
				return extract(falsehood, not)
			}
		}
		return n
	}
	return node{}
}

var falsehood = celast.NewExprFactory().NewLiteral(0, types.False)

// among makes a node of `field in ["a", "b"]`.
func among(a, list celast.Expr, not bool) node {
	f := fieldOf(a)
	if f >= texts && f != destination || list.Kind() != celast.ListKind {
		return node{}
	}
	values := make(map[string]struct{})
	var texts []string
	for _, e := range list.AsList().Elements() {
		text, ok := literal[types.String](e)
		if !ok {
			return node{}
		}
		values[string(text)] = struct{}{}
		texts = append(texts, string(text))
	}
	if f == destination {
		return addresses(texts, not)
	}
	return node{kind: exact, field: f, values: values, not: not}
}

// addresses makes a node of destination == text. A text that is not how an address is written equals none.
func addresses(list []string, not bool) node {
	n := node{kind: address, field: destination, not: not}
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		switch {
		case text == "":
			n.addrs = append(n.addrs, netip.Addr{}) // no address at all
		case err == nil && a.String() == text && !a.Is4In6():
			n.addrs = append(n.addrs, a)
		}
	}
	return n
}

// member makes a node of field.startsWith("x") and its like.
func member(call celast.CallExpr, not bool) node {
	if !call.IsMemberFunction() {
		return node{}
	}
	f := fieldOf(call.Target())
	text, ok := literal[types.String](call.Args()[0])
	if !ok {
		return node{}
	}
	n := node{field: f, value: string(text), not: not}
	switch name := call.FunctionName(); {
	case name == "within" && f == destination:
		n.kind, n.net = network, netip.MustParsePrefix(n.value) // check has parsed it
	case f >= texts:
		return node{}
	case name == "startsWith":
		n.kind = prefix
	case name == "endsWith":
		n.kind = suffix
	case name == "contains":
		n.kind = contains
	case name == "matches":
		n.kind, n.regex = matches, regexp.MustCompile(n.value) // likewise
	default:
		return node{}
	}
	return n
}

// hasOpaque tells whether CEL may have to be asked.
func (n *node) hasOpaque() bool {
	if n.kind == opaque {
		return true
	}
	for i := range n.kids {
		if n.kids[i].hasOpaque() {
			return true
		}
	}
	return false
}

// classes adds the classes of data that a condition names: those it compares data with, and what data may begin with, end
// with or contain, which is such a class itself.
func classes(ast *cel.Ast, into map[string]struct{}) {
	add := func(e celast.Expr) {
		if text, ok := literal[types.String](e); ok {
			into[string(text)] = struct{}{}
		}
	}
	celast.PreOrderVisit(ast.NativeRep().Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		if e.Kind() != celast.CallKind {
			return
		}
		operands := e.AsCall().Args()
		if e.AsCall().IsMemberFunction() {
			operands = append([]celast.Expr{e.AsCall().Target()}, operands...)
		}
		for i, o := range operands {
			if fieldOf(o) != data || len(operands) != 2 {
				continue
			}
			other := operands[1-i]
			if other.Kind() != celast.ListKind {
				add(other)
				continue
			}
			for _, item := range other.AsList().Elements() {
				add(item)
			}
		}
	}))
}
