package rewrite

import (
	"math"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// limitValue reads an OCI limit: nil and 0 say nothing, -1 is no limit. Other
// negative numbers mean nothing to anyone; runc will complain about them.
func limitValue(p *int64) (policy.Value, bool) {
	switch {
	case p == nil || *p == 0 || *p < -1:
		return 0, false
	case *p == -1:
		return policy.Unlimited, true
	}
	return policy.Value(*p), true
}

// limitOf writes a value the way limitValue reads it. A limit of nothing at all
// cannot be written, so it becomes the smallest there is.
func limitOf(v policy.Value) *int64 {
	n := int64(v)
	if v == policy.Unlimited {
		n = -1
	} else if n < 1 {
		n = 1
	}
	return &n
}

// unifiedValue reads a cgroup v2 file from the spec. said is whether the spec
// sets the file, ok whether to a limit that can be understood.
func unifiedValue(r *specs.LinuxResources, unified bool, file string) (v policy.Value, ok, said bool) {
	s, said := r.Unified[file]
	if !unified || !said {
		return 0, false, false
	}
	v, ok = parseLimit(s)
	return v, ok, true
}

// parseLimit reads what cgroup v2 files hold: a number or max.
func parseLimit(s string) (policy.Value, bool) {
	s = strings.TrimSpace(s)
	if s == "max" {
		return policy.Unlimited, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return policy.Value(n), err == nil && n >= 0
}

func formatLimit(v policy.Value) string {
	if v == policy.Unlimited {
		return "max"
	}
	return strconv.FormatInt(int64(v), 10)
}

// plus adds without overflow: what would overflow is unlimited.
func plus(a, b policy.Value) policy.Value {
	if a > math.MaxInt64-b {
		return policy.Unlimited
	}
	return a + b
}
