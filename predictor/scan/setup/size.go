package setup

import (
	"math"
	"strconv"
	"strings"
)

// Size reads a number of bytes with a unit: 512m, 1g, 128MB, 2GiB, 64k. Units are powers of 1024, as in nearly all
// programs' settings. A bare number is multiplied by unit. ok is false for what is no size, for 0 and for negative ones.
func Size(s string, unit float64) (bytes float64, ok bool) {
	s = strings.TrimSpace(s)
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.') {
		end++
	}
	n, err := strconv.ParseFloat(s[:end], 64)
	if err != nil {
		return 0, false
	}
	switch strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(s[end:]), "B"), "b")) {
	case "":
		if end == len(s) {
			n *= unit
		}
	case "k", "ki":
		n *= 1 << 10
	case "m", "mi":
		n *= 1 << 20
	case "g", "gi":
		n *= 1 << 30
	case "t", "ti":
		n *= 1 << 40
	default:
		return 0, false
	}
	return n, n > 0 && !math.IsInf(n, 0) && n < 1<<60
}

// Count reads a number of workers, connections and the like; it is def when s is none.
func Count(s string, def float64) float64 {
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || n < 0 || n > 1e9 {
		return def
	}
	return n
}
