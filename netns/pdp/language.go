package pdp

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// What a condition may be and cost at most. Costs are CEL's units, of which a comparison has about one.
const (
	MaxCondition = 4096 // bytes
	maxNesting   = 32
	maxNodes     = 1000 // with what macros make of it
	maxCost      = 50_000
	maxRegex     = 1000 // instructions of the compiled expression
)

// language is CEL with the fields as variables and `within`.
var language = sync.OnceValue(func() *cel.Env {
	options := []cel.EnvOption{
		cel.ParserRecursionLimit(maxNesting),
		cel.ParserExpressionSizeLimit(MaxCondition),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegex),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
		cel.Function("within", cel.MemberOverload("string_within_string",
			[]*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(within))),
	}
	for _, v := range variables {
		options = append(options, cel.Variable(v.name, v.kind))
	}
	return must(cel.NewEnv(options...))
})

// must is for what depends on no input.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// within tells whether an address is in a network: destination.within("10.0.0.0/8").
func within(address, network ref.Val) ref.Val {
	net, err := netip.ParsePrefix(string(network.(types.String)))
	if err != nil {
		return types.NewErr("within: %v", err)
	}
	addr, err := netip.ParseAddr(string(address.(types.String)))
	return types.Bool(err == nil && net.Contains(addr))
}

// check parses and types a condition.
func check(when string) (*cel.Ast, *Problem) {
	ast, issues := language().Compile(when)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, &Problem{Offset: offset(when, first.Location.Line(), first.Location.Column()), Message: firstLine(first.Message)}
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, &Problem{Message: fmt.Sprintf("the condition is of type %s: it must be true or false", ast.OutputType())}
	}
	var wrong *Problem
	celast.PreOrderVisit(ast.NativeRep().Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		if e.Kind() != celast.CallKind || e.AsCall().FunctionName() != "within" || wrong != nil {
			return
		}
		arg := e.AsCall().Args()[0]
		start := ast.NativeRep().SourceInfo().GetStartLocation(arg.ID())
		text, ok := literal[types.String](arg)
		if !ok {
			wrong = &Problem{Message: `within takes a network as text, such as "10.0.0.0/8"`}
		} else if net, err := netip.ParsePrefix(string(text)); err != nil {
			wrong = &Problem{Message: err.Error()}
		} else if net != net.Masked() {
			wrong = &Problem{Message: fmt.Sprintf("%s has bits beyond its length: write %s", net, net.Masked())}
		}
		if wrong != nil {
			wrong.Offset = offset(when, start.Line(), start.Column())
		}
	}))
	if wrong != nil {
		return nil, wrong
	}
	if worst := must(language().EstimateCost(ast, sizes{})); worst.Max > maxCost {
		return nil, &Problem{Message: fmt.Sprintf("the condition may cost %d, the most is %d: loops and long texts cost most", worst.Max, maxCost)}
	}
	return ast, nil
}

// literal is the constant that e is.
func literal[T ref.Val](e celast.Expr) (v T, ok bool) {
	if e.Kind() == celast.LiteralKind {
		v, ok = e.AsLiteral().(T)
	}
	return v, ok
}

// sizes tells CEL how long fields can be.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	f, ok := byName[strings.Join(n.Path(), ".")]
	if !ok {
		return nil
	}
	return &cost.SizeEstimate{Max: variables[f].most}
}

// EstimateCallCost implements cost.Estimator.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// offset turns CEL's position, a line from 1 and a column of runes from 0, into one in bytes.
func offset(text string, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		next := strings.IndexByte(text[at:], '\n')
		if next < 0 {
			break
		}
		at += next + 1
	}
	for ; column > 0 && at < len(text); column-- {
		_, size := utf8.DecodeRuneInString(text[at:])
		at += size
	}
	return at
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
