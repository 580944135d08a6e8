package rewrite

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// The files of cgroup v2 that runc lets a spec set directly.
const (
	fileMax     = "memory.max"
	fileHigh    = "memory.high"
	fileSwapMax = "memory.swap.max"
)

func memory(r *specs.LinuxResources) *specs.LinuxMemory {
	if r.Memory == nil {
		r.Memory = &specs.LinuxMemory{}
	}
	return r.Memory
}

// memorySaid is memory without making it.
func memorySaid(r *specs.LinuxResources) specs.LinuxMemory {
	if r.Memory == nil {
		return specs.LinuxMemory{}
	}
	return *r.Memory
}

func readMemory(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if v, ok, said := unifiedValue(r, unified, fileMax); said {
		return v, ok
	}
	return limitValue(memorySaid(r).Limit)
}

func writeMemory(r *specs.LinuxResources, v policy.Value, _ bool) {
	dropUnified(r, fileMax)
	memory(r).Limit = limitOf(v)
}

// readSwap reads the bound on memory plus swap. cgroup v2's own file counts
// swap alone.
func readSwap(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if swap, ok, said := unifiedValue(r, unified, fileSwapMax); said {
		if limit, limited := readMemory(r, unified); ok && limited {
			return plus(limit, swap), true
		}
		return policy.Unlimited, ok
	}
	return limitValue(memorySaid(r).Swap)
}

func writeSwap(r *specs.LinuxResources, v policy.Value, _ bool) {
	dropUnified(r, fileSwapMax)
	memory(r).Swap = limitOf(v)
}

// readSoft reads the limit above which the kernel reclaims. On cgroup v2 runc
// makes a reservation memory.low, which protects and does not limit.
func readSoft(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if unified {
		v, ok, _ := unifiedValue(r, unified, fileHigh)
		return v, ok
	}
	return limitValue(memorySaid(r).Reservation)
}

func writeSoft(r *specs.LinuxResources, v policy.Value, unified bool) {
	if unified {
		setUnified(r, fileHigh, formatLimit(v))
		return
	}
	memory(r).Reservation = limitOf(v)
}

// orderMemory makes the limits fit each other after one of them changed. runc
// and the kernel refuse memory+swap under memory: the stronger author's limit
// stays and the other one follows; between equals memory stays, which leaves no
// swap. A soft limit over the hard one would never be reached. A request, asked,
// that contradicts itself and is as it was is left for runc to refuse.
func orderMemory(r, asked *specs.LinuxResources, eff policy.Effective, unified bool) {
	m := r.Memory
	if m == nil || contradicts(asked) && *m.Limit == *asked.Memory.Limit && *m.Swap == *asked.Memory.Swap {
		return
	}
	limit, limited := readMemory(r, unified)
	if !limited {
		limit = policy.Unlimited
	}
	if swap, ok := limitValue(m.Swap); ok && swap != policy.Unlimited {
		_, decided := eff.Lookup(policy.KeyMemory)
		switch {
		case limit <= swap: // runc relates the two only when both are said in the same place
			writeMemory(r, limit, unified)
		case stronger(eff, policy.KeyMemorySwap, policy.KeyMemory):
			limit = swap
			writeMemory(r, limit, unified)
		case decided:
			m.Swap = limitOf(limit)
		}
	}
	if soft, ok := limitValue(m.Reservation); ok && !unified && soft > limit && soft != policy.Unlimited {
		m.Reservation = limitOf(limit)
	}
}

// contradicts reports whether a request limits memory and swap to less than memory alone.
func contradicts(r *specs.LinuxResources) bool {
	if r == nil || r.Memory == nil || r.Memory.Limit == nil || r.Memory.Swap == nil {
		return false
	}
	return *r.Memory.Swap > 0 && *r.Memory.Swap < *r.Memory.Limit
}

// stronger reports whether the author of a outranks that of b. An undecided key
// is outranked by any decided one.
func stronger(eff policy.Effective, a, b policy.Key) bool {
	fa, oka := eff.Lookup(a)
	fb, okb := eff.Lookup(b)
	return oka && (!okb || fa.Author > fb.Author)
}
