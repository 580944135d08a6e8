package output

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Bytes prints a size in at most five characters: 512K, 12.3M, 1.5G. Zero and less is "-".
func Bytes(n int64) string {
	if n <= 0 {
		return "-"
	}
	f, units := float64(n), "BKMGTPE"
	for ; f >= 1023.5 && len(units) > 1; units = units[1:] {
		f /= 1024
	}
	if units[0] == 'B' || f >= 99.95 {
		return strconv.FormatFloat(math.Round(f), 'f', 0, 64) + units[:1]
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + units[:1]
}

// CPUs prints a number of processors in few characters. Zero and less is "-".
func CPUs(f float64) string {
	switch {
	case !(f > 0):
		return "-"
	case f < 0.01:
		return "<0.01"
	case f < 10:
		return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(f, 'f', 2, 64), "0"), ".")
	}
	return strconv.FormatFloat(f, 'f', 0, 64)
}

// Count prints a number; zero and less is "-".
func Count(n int64) string {
	if n <= 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// Percent prints a share of one with two digits that matter.
func Percent(f float64) string {
	switch {
	case math.IsNaN(f):
		return "-"
	case f > 0 && f < 0.0005:
		return "<0.1 %"
	case f < 0.0995:
		return strings.TrimSuffix(strconv.FormatFloat(f*100, 'f', 1, 64), ".0") + " %"
	case f > 0.995 && f < 1:
		return ">99 %"
	}
	return strconv.FormatFloat(f*100, 'f', 0, 64) + " %"
}

// Age prints a duration by its largest unit: 42s, 5m, 3h, 12d.
func Age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// Took prints how long something took: 0.3 ms, 12 ms, 1.4 s.
func Took(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// Time prints a moment in local time, to the second.
func Time(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}
