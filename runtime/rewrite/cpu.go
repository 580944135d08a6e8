package rewrite

import (
	"math"
	"math/bits"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// The kernel's bounds, and its default period, in microseconds.
const (
	defaultPeriod = 100_000
	leastQuota    = 1_000
	mostPeriod    = 1_000_000
	leastShares   = 2
	defaultShares = 1024
	mostShares    = 262_144
)

const (
	fileCPUMax    = "cpu.max"
	fileCPUWeight = "cpu.weight"
	filePIDsMax   = "pids.max"
)

func cpu(r *specs.LinuxResources) *specs.LinuxCPU {
	if r.CPU == nil {
		r.CPU = &specs.LinuxCPU{}
	}
	return r.CPU
}

// readCPUs reads quota over period. It rounds up, so that the value it claims is
// never tighter than what the container gets, and a ceiling just under it counts.
func readCPUs(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if s, said := r.Unified[fileCPUMax]; said && unified {
		quota, period, _ := strings.Cut(strings.TrimSpace(s), " ")
		q, ok := parseLimit(quota)
		if p, good := parseLimit(period); good && p != policy.Unlimited {
			return millicores(q, uint64(p)), ok
		}
		return millicores(q, defaultPeriod), ok
	}
	if r.CPU == nil || r.CPU.Quota == nil || *r.CPU.Quota == 0 {
		return 0, false
	}
	if *r.CPU.Quota < 0 {
		return policy.Unlimited, true
	}
	return millicores(policy.Value(*r.CPU.Quota), period(r.CPU)), true
}

// millicores is quota over period in thousandths, rounded up.
func millicores(quota policy.Value, period uint64) policy.Value {
	if quota == policy.Unlimited {
		return policy.Unlimited
	}
	hi, lo := bits.Mul64(uint64(quota), 1000)
	lo, carry := bits.Add64(lo, max(period, 1)-1, 0)
	if hi+carry >= max(period, 1) {
		return policy.Unlimited
	}
	n, _ := bits.Div64(hi+carry, lo, max(period, 1))
	return policy.Value(min(n, math.MaxInt64))
}

func period(c *specs.LinuxCPU) uint64 {
	if c.Period == nil || *c.Period == 0 {
		return defaultPeriod
	}
	return *c.Period
}

// writeCPUs keeps the spec's period unless the quota would be under what the
// kernel accepts; then the period grows. A burst may not exceed the quota.
func writeCPUs(r *specs.LinuxResources, v policy.Value, _ bool) {
	dropUnified(r, fileCPUMax)
	c := cpu(r)
	if v == policy.Unlimited {
		c.Quota = limitOf(v)
		return
	}
	m := uint64(max(v, 1))
	p := min(period(c), mostPeriod)
	if least := uint64(leastQuota * 1000); m < (least+p-1)/p { // the quota m*p/1000 would be under leastQuota
		p = (least + m - 1) / m
	}
	quota := uint64(math.MaxInt64)
	if hi, lo := bits.Mul64(m, p); hi < 1000 {
		quota, _ = bits.Div64(hi, lo, 1000)
	}
	q := int64(min(quota, math.MaxInt64))
	c.Quota, c.Period = &q, &p
	if c.Burst != nil && *c.Burst > uint64(q) {
		burst := uint64(q)
		c.Burst = &burst
	}
}

// readShares reads the weight. A spec that sets cgroup v2's own weight is left
// to it: the two scales do not map onto each other.
func readShares(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if _, said := r.Unified[fileCPUWeight]; said && unified {
		return 0, false
	}
	if r.CPU == nil || r.CPU.Shares == nil || *r.CPU.Shares == 0 {
		return 0, false
	}
	return policy.Value(min(*r.CPU.Shares, math.MaxInt64)), true
}

func writeShares(r *specs.LinuxResources, v policy.Value, _ bool) {
	dropUnified(r, fileCPUWeight)
	shares := uint64(min(max(v, leastShares), mostShares))
	cpu(r).Shares = &shares
}

// readPIDs reads the limit on processes. runc makes 0 the tightest, one.
func readPIDs(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if v, ok, said := unifiedValue(r, unified, filePIDsMax); said {
		return v, ok
	}
	switch {
	case r.Pids == nil || r.Pids.Limit == nil:
		return 0, false
	case *r.Pids.Limit < 0:
		return policy.Unlimited, true
	}
	return policy.Value(max(*r.Pids.Limit, 1)), true
}

func writePIDs(r *specs.LinuxResources, v policy.Value, _ bool) {
	dropUnified(r, filePIDsMax)
	r.Pids = &specs.LinuxPids{Limit: limitOf(v)}
}
