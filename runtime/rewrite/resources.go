package rewrite

import (
	"maps"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// knob reads and writes one key of the resources. read reports false where the
// resources leave the key open. write replaces whatever said something about it,
// cgroup v2's unified settings included: runc applies those last.
type knob struct {
	key   policy.Key
	read  func(*specs.LinuxResources, bool) (policy.Value, bool)
	write func(*specs.LinuxResources, policy.Value, bool)
}

// knobs: memory precedes swap, whose reading depends on it.
var knobs = []knob{
	{policy.KeyMemory, readMemory, writeMemory},
	{policy.KeyMemorySwap, readSwap, writeSwap},
	{policy.KeyMemorySoft, readSoft, writeSoft},
	{policy.KeyCPUs, readCPUs, writeCPUs},
	{policy.KeyCPUShares, readShares, writeShares},
	{policy.KeyPIDs, readPIDs, writePIDs},
}

func (c *claims) resources(r *specs.LinuxResources, unified bool) {
	if r == nil {
		return
	}
	for _, k := range knobs {
		if v, ok := k.read(r, unified); ok {
			c.add(k.key, v)
		}
	}
	c.io(r, unified)
}

// resources writes the limits that differ from what the spec says.
func resources(spec *specs.Spec, in Input) error {
	var before *specs.LinuxResources
	if spec.Linux != nil {
		before = spec.Linux.Resources
	}
	r := ownResources(before)
	changed := false
	for _, k := range knobs {
		f, decided := in.Effective.Lookup(k.key)
		said, ok := k.read(r, in.Unified)
		if !ok {
			said = policy.Unlimited
		}
		if decided && said != f.Value {
			k.write(r, f.Value, in.Unified)
			changed = true
		}
	}
	if changed {
		orderMemory(r, before, in.Effective, in.Unified)
		linux(spec).Resources = r
	}
	return nil
}

// Resources is the update to send to runc: every limit the policy decides, on
// top of what r (the requested update, nil for none) says of anything else. It
// names also what does not change, because runc knows no better. Rates of disks are not in it: those that the
// policy decides the caller writes. r is not changed; the result shares what no policy governs with it.
func Resources(r *specs.LinuxResources, eff policy.Effective, unified bool) *specs.LinuxResources {
	asked := r
	r = ownResources(r)
	for _, k := range knobs {
		if f, ok := eff.Lookup(k.key); ok {
			k.write(r, f.Value, unified)
		}
	}
	orderMemory(r, asked, eff, unified)
	withoutIO(r, eff)
	return r
}

// Change is the update when a running container's policy changes, on top of what asked (nil for nothing) says of anything
// else: every limit that after decides, and none for those that only before decided. With all, also those that
// neither decides are named as none: for a runc that remembers another.
func Change(asked *specs.LinuxResources, before, after policy.Effective, all, unified bool) *specs.LinuxResources {
	r := ownResources(asked)
	for _, k := range knobs {
		if _, decided := after.Lookup(k.key); decided {
			continue
		}
		_, decided := before.Lookup(k.key)
		_, said := k.read(r, unified)
		switch {
		case said || !decided && !all:
		case k.key != policy.KeyCPUShares && (decided || k.key != policy.KeyMemorySwap): // not every kernel counts swap
			k.write(r, policy.Unlimited, unified)
		case decided:
			k.write(r, defaultShares, unified)
		}
	}
	return Resources(r, after, unified)
}

// Overlay is what a container's resources are after an update as runc reads it:
// what the update leaves out, or sets to zero, stays. Neither argument is changed.
func Overlay(container, update *specs.LinuxResources) *specs.LinuxResources {
	r := ownResources(container)
	if update == nil {
		return r
	}
	if m := update.Memory; m != nil {
		overlay(r, fileMax, &memory(r).Limit, m.Limit)
		overlay(r, fileHigh, &memory(r).Reservation, m.Reservation)
		overlay(r, fileSwapMax, &memory(r).Swap, m.Swap)
	}
	if c := update.CPU; c != nil {
		overlay(r, fileCPUWeight, &cpu(r).Shares, c.Shares)
		overlay(r, fileCPUMax, &cpu(r).Quota, c.Quota)
		overlay(r, fileCPUMax, &cpu(r).Period, c.Period)
	}
	if p := update.Pids; p != nil && p.Limit != nil {
		writePIDs(r, 0, false)
		r.Pids.Limit = p.Limit
	}
	overlayIO(r, update.BlockIO)
	for name, value := range update.Unified {
		setUnified(r, name, value)
	}
	return r
}

// overlay replaces what the container says about one limit, in either place.
func overlay[T int64 | uint64](r *specs.LinuxResources, file string, to **T, from *T) {
	if from != nil && *from != 0 {
		dropUnified(r, file)
		*to = from
	}
}

// ownResources copies what the knobs write.
func ownResources(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return &specs.LinuxResources{}
	}
	own := *r
	if r.Memory != nil {
		m := *r.Memory
		own.Memory = &m
	}
	if r.CPU != nil {
		c := *r.CPU
		own.CPU = &c
	}
	if r.BlockIO != nil {
		b := *r.BlockIO
		own.BlockIO = &b
	}
	own.Unified = maps.Clone(r.Unified)
	return &own
}

// setUnified sets a cgroup v2 file, dropUnified leaves it to the other fields.
func setUnified(r *specs.LinuxResources, file, value string) {
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified[file] = value
}

func dropUnified(r *specs.LinuxResources, file string) { delete(r.Unified, file) }
