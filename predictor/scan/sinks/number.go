package sinks

import (
	"math"
	"strconv"
	"strings"
)

// product evaluates what scripts write for large numbers: 10**9, 1024*1024*1024, 1<<34, 2e9, with underscores.
func product(s string) (float64, bool) {
	s = strings.NewReplacer(" ", "", "_", "", "(", "", ")", "").Replace(s)
	s = strings.TrimRight(s, "*<+e")
	if base, shift, ok := strings.Cut(s, "<<"); ok {
		b, okB := product(base)
		n, err := strconv.Atoi(shift)
		return math.Ldexp(b, min(max(n, 0), 1000)), okB && err == nil
	}
	total := 1.0
	for _, part := range strings.Split(strings.ReplaceAll(s, "**", "^"), "*") {
		base, power, raised := strings.Cut(part, "^")
		n, err := strconv.ParseFloat(base, 64)
		if err != nil {
			return 0, false
		}
		if raised {
			e, err := strconv.ParseFloat(power, 64)
			if err != nil {
				return 0, false
			}
			n = math.Pow(n, e)
		}
		total *= n
	}
	return total, true
}
