package pdp

import (
	"maps"
	"slices"
	"time"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// loadHolds is how long an answer that depends on the node's load is good for: the load is measured as often.
const loadHolds = time.Second

// horizon knows until when an answer that depends on the time can be good.
type horizon struct {
	grain time.Duration // multiples of it, since the epoch, are when it may change; 0: at moments only
	at    []time.Time   // moments when it may change
	asks  mask          // what conditions ask for
}

// coarse are the functions of a timestamp whose result changes at the earliest so often. In all time zones that are in use hours
// begin at a multiple of a quarter of one, as UTC counts.
var coarse = map[string]time.Duration{
	"getFullYear": quarter, "getMonth": quarter, "getDate": quarter, "getDayOfMonth": quarter, "getDayOfWeek": quarter,
	"getDayOfYear": quarter, "getHours": quarter, "getMinutes": time.Minute,
}

const quarter = 15 * time.Minute

// add takes a condition into account.
func (h *horizon) add(ast *cel.Ast) {
	total, explained := 0, 0
	celast.PreOrderVisit(ast.NativeRep().Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		f := fieldOf(e)
		if f < fields {
			h.asks |= f.bit()
		}
		if f == now {
			total++
		}
		if e.Kind() != celast.CallKind {
			return
		}
		call := e.AsCall()
		if every := coarse[call.FunctionName()]; every > 0 && call.IsMemberFunction() && fieldOf(call.Target()) == now && named(call.Args()) {
			explained++
			h.every(every)
		}
		if moment, ok := comparedWithNow(call); ok {
			explained++
			h.at = append(h.at, moment, moment.Add(time.Second))
		}
	}))
	if explained < total {
		h.every(time.Second)
	}
}

func (h *horizon) every(d time.Duration) {
	if h.grain == 0 || d < h.grain {
		h.grain = d
	}
}

// named tells whether the time zone of a call is UTC or one by name: an offset in digits may be anything.
func named(args []celast.Expr) bool {
	if len(args) == 0 {
		return true
	}
	zone, ok := literal[types.String](args[0])
	return ok && zone != "" && (zone[0] >= 'A' && zone[0] <= 'Z')
}

// comparedWithNow is the constant moment that a call compares the time with.
func comparedWithNow(call celast.CallExpr) (time.Time, bool) {
	switch call.FunctionName() {
	case operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
	default:
		return time.Time{}, false
	}
	a, b := call.Args()[0], call.Args()[1]
	if fieldOf(b) == now {
		a, b = b, a
	}
	if fieldOf(a) != now || b.Kind() != celast.CallKind || b.AsCall().FunctionName() != "timestamp" {
		return time.Time{}, false
	}
	text, ok := literal[types.String](b.AsCall().Args()[0])
	if !ok {
		return time.Time{}, false
	}
	moment, err := time.Parse(time.RFC3339, string(text))
	return moment, err == nil
}

// holds is for how long an answer is good that looked at these fields; 0: for ever.
func (h *horizon) holds(seen mask, t time.Time) time.Duration {
	var least time.Duration
	sooner := func(d time.Duration) {
		if d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	if seen&load.bit() != 0 {
		sooner(loadHolds)
	}
	if seen&now.bit() == 0 {
		return least
	}
	if h.grain > 0 {
		sooner(t.Truncate(h.grain).Add(h.grain).Sub(t))
	}
	for _, moment := range h.at {
		sooner(moment.Sub(t))
	}
	return least
}

func sortedKeys(m map[string]struct{}) []string { return slices.Sorted(maps.Keys(m)) }
