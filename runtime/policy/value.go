package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Value is a point on the scale of its key. Larger is looser, on every scale.
type Value int64

// Unlimited is the loosest point of the scales that count something.
const Unlimited Value = math.MaxInt64

// Mode is how strictly a container's policy is applied.
const (
	ModeEnforce  Value = 0 // surprises are denied
	ModeAdaptive Value = 1 // benign surprises are allowed and learned
	ModeObserve  Value = 2 // guardrails only; the rest is recorded as "would have"
)

// Tight and Loose are the two points of the scales that switch something.
const (
	Tight Value = 0
	Loose Value = 1
)

// The points of the syscalls scale. They equal runtime/seccomp's verdicts.
const (
	SyscallKill   Value = 0
	SyscallDeny   Value = 1
	SyscallWatch  Value = 2
	SyscallNative Value = 3
)

// The points of the scale of egress.feeds. Where nobody decides it, listed destinations are watched.
const (
	FeedsBlock Value = 0
	FeedsWatch Value = 1
	FeedsOff   Value = 2
)

// The points of the scale of execs: none, any but root's, all.
const (
	ExecOff     Value = 0
	ExecNonRoot Value = 1
	ExecOn      Value = 2
)

// The points of the devices scale.
const (
	DeviceNone      Value = 0
	DeviceRead      Value = 1
	DeviceReadWrite Value = 2
	DeviceAll       Value = 3 // and mknod
)

// A scale reads and prints the values of a key.
type scale interface {
	parse(string) (Value, error)
	format(Value) string
}

// words is a scale whose points have names, from tightest to loosest.
type words []string

func (w words) parse(s string) (Value, error) {
	for i, name := range w {
		if strings.EqualFold(s, name) {
			return Value(i), nil
		}
	}
	return 0, fmt.Errorf("%.60q is not one of %s", s, strings.Join(w, ", "))
}

func (w words) format(v Value) string { return w[min(max(v, 0), Value(len(w)-1))] }

// count is a plain number from least upwards.
type count struct{ least, most int64 }

func (c count) parse(s string) (Value, error) {
	if unlimited(s) {
		return Unlimited, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	switch {
	case c.most > 0 && (err != nil || n < c.least || n > c.most):
		return 0, fmt.Errorf("%.60q is not a whole number from %d to %d, nor \"unlimited\"", s, c.least, c.most)
	case err != nil || n < c.least:
		return 0, fmt.Errorf("%.60q is not a whole number of at least %d, nor \"unlimited\"", s, c.least)
	}
	return Value(n), nil
}

func (c count) format(v Value) string {
	if v == Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(int64(v), 10)
}

// bytes counts bytes; Docker's suffixes (512m, 1g: powers of 1024) and Kubernetes'
// (512Mi, 1Gi, and M, G as powers of 1000 only with a trailing B: 512MB) are read.
type bytes struct{}

var byteUnits = []struct {
	suffix string
	size   float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"ki", 1 << 10}, {"mi", 1 << 20}, {"gi", 1 << 30}, {"ti", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1},
}

func (bytes) parse(s string) (Value, error) {
	if unlimited(s) {
		return Unlimited, nil
	}
	number, size := strings.ToLower(strings.TrimSpace(s)), 1.0
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, ok := decimal(number)
	if !ok || n*size < 1 || n*size > 1<<60 {
		return 0, fmt.Errorf("%.60q is not a size such as 64Mi, 512m or 1g, nor \"unlimited\"", s)
	}
	return Value(n * size), nil
}

func (bytes) format(v Value) string {
	if v == Unlimited {
		return "unlimited"
	}
	f, units := float64(v), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + " " + units[i]
}

// rate counts bytes per second, in the words of bytes; "/s" may follow. cgroup v2 takes no rate below 2.
type rate struct{}

const leastRate = 2

func (rate) parse(s string) (Value, error) {
	v, err := bytes{}.parse(strings.TrimSuffix(strings.TrimSpace(s), "/s"))
	if err != nil || v < leastRate {
		return 0, fmt.Errorf("%.60q is not a number of bytes per second such as 512Ki, 10Mi or 1g, nor \"unlimited\"", s)
	}
	return v, nil
}

func (rate) format(v Value) string {
	if v == Unlimited {
		return "unlimited"
	}
	return bytes{}.format(v) + "/s"
}

// millicores counts thousandths of a processor: "1.5" and "1500m" are the same.
type millicores struct{}

func (millicores) parse(s string) (Value, error) {
	if unlimited(s) {
		return Unlimited, nil
	}
	number, factor := s, 1000.0
	if rest, ok := strings.CutSuffix(s, "m"); ok {
		number, factor = rest, 1
	}
	n, ok := decimal(number)
	if !ok || n*factor < 1 || n*factor > 1e9 {
		return 0, fmt.Errorf("%.60q is not a number of CPUs such as 0.5, 2 or 500m, nor \"unlimited\"", s)
	}
	return Value(math.Round(n * factor)), nil
}

func (millicores) format(v Value) string {
	if v == Unlimited {
		return "unlimited"
	}
	return strconv.FormatFloat(float64(v)/1000, 'f', -1, 64)
}

// oomScore is the kernel's oom_score_adj, turned round: whoever is killed last takes memory from all others, so -1000, never
// killed, is the loosest.
type oomScore struct{}

const worstScore = 1000

func (oomScore) parse(s string) (Value, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < -worstScore || n > worstScore {
		return 0, fmt.Errorf("%.60q is not a whole number from -1000 (killed last) to 1000 (killed first)", s)
	}
	return OOMScore(int(n)), nil
}

func (oomScore) format(v Value) string {
	return strconv.FormatInt(int64(worstScore-min(max(v, 0), 2*worstScore)), 10)
}

// OOMScore is the value of an oom_score_adj, within the kernel's bounds; FromOOMScore is its inverse.
func OOMScore(adj int) Value { return Value(worstScore - min(max(adj, -worstScore), worstScore)) }

// FromOOMScore is the oom_score_adj of a value.
func FromOOMScore(v Value) int { return int(worstScore - min(max(v, 0), 2*worstScore)) }

// decimal reads digits with at most one point: no sign, no exponent, and none of
// the words that ParseFloat takes for infinity or for no number at all.
func decimal(s string) (n float64, ok bool) {
	if strings.ContainsFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }) {
		return 0, false
	}
	n, err := strconv.ParseFloat(s, 64)
	return n, err == nil
}

func unlimited(s string) bool {
	return strings.EqualFold(s, "unlimited") || s == "-1" || strings.EqualFold(s, "max")
}
