package rewrite

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// fileIOMax is cgroup v2's file of rates, a line a disk: "8:0 rbps=1048576 wbps=max".
const fileIOMax = "io.max"

// throttle is one direction: the family of its rates, where a spec has them, and their word in io.max.
type throttle struct {
	family policy.Key
	list   func(*specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice
	word   string
}

var throttles = []throttle{
	{policy.KeyIORead, func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleReadBpsDevice }, "rbps"},
	{policy.KeyIOWrite, func(b *specs.LinuxBlockIO) *[]specs.LinuxThrottleDevice { return &b.ThrottleWriteBpsDevice }, "wbps"},
}

// io claims the rates that resources ask for. Of a disk that is named twice the last holds, and io.max over the lists: runc writes them in
// this order. A rate of 0 says nothing.
func (c *claims) io(r *specs.LinuxResources, unified bool) {
	for _, t := range throttles {
		said := t.read(r, unified)
		for _, disk := range slices.SortedFunc(maps.Keys(said), compareDisks) {
			c.add(t.family.Member(disk.String()), said[disk])
		}
	}
	if v, ok := readIOWeight(r, unified); ok {
		c.add(policy.KeyIOWeight, v)
	}
}

// cgroup v2's files of weights: that of the BFQ scheduler, from 1 to 1000 as in cgroup v1, and that of all others, from 1 to 10,000.
const (
	fileBFQWeight = "io.bfq.weight"
	fileIOWeight  = "io.weight"
)

// readIOWeight is the weight that resources ask for, which io.bfq.weight overrules. One of io.weight, which has another scale, says nothing.
func readIOWeight(r *specs.LinuxResources, unified bool) (policy.Value, bool) {
	if n, err := strconv.ParseUint(r.Unified[fileBFQWeight], 10, 16); unified && err == nil && n != 0 {
		return policy.Value(n), true
	}
	if r.BlockIO == nil || r.BlockIO.Weight == nil || *r.BlockIO.Weight == 0 {
		return 0, false
	}
	return policy.Value(*r.BlockIO.Weight), true
}

// writeIOWeight has resources say v of the weight, and nothing when there is none.
func writeIOWeight(r *specs.LinuxResources, v policy.Value) {
	dropUnified(r, fileBFQWeight)
	dropUnified(r, fileIOWeight)
	switch {
	case v != policy.Unlimited:
		if r.BlockIO == nil {
			r.BlockIO = &specs.LinuxBlockIO{}
		}
		n := uint16(min(max(v, leastIOWeight), mostIOWeight))
		r.BlockIO.Weight = &n
	case r.BlockIO != nil:
		r.BlockIO.Weight = nil
	}
}

// Weights that the kernel takes.
const (
	leastIOWeight = 1
	mostIOWeight  = 1000
)

func compareDisks(a, b policy.Disk) int { return strings.Compare(a.String(), b.String()) }

// read is what resources say of each disk.
func (t throttle) read(r *specs.LinuxResources, unified bool) map[policy.Disk]policy.Value {
	said := make(map[policy.Disk]policy.Value)
	if r.BlockIO != nil {
		for _, d := range *t.list(r.BlockIO) {
			if disk, ok := diskOf(d); ok && d.Rate != 0 {
				said[disk] = hardValue(d.Rate)
			}
		}
	}
	if !unified {
		return said
	}
	for line := range strings.Lines(r.Unified[fileIOMax]) {
		disk, words, ok := ioLine(line)
		for _, w := range words {
			if v, valid := t.rate(w); ok && valid {
				said[disk] = v
			}
		}
	}
	return said
}

// ioLine splits a line of io.max.
func ioLine(line string) (disk policy.Disk, words []string, ok bool) {
	words = strings.Fields(line)
	if len(words) == 0 {
		return disk, nil, false
	}
	disk, err := policy.ParseDisk(words[0])
	return disk, words[1:], err == nil
}

// rate reads a word of io.max, where it is about this direction.
func (t throttle) rate(word string) (policy.Value, bool) {
	s, mine := strings.CutPrefix(word, t.word+"=")
	if s == "max" {
		return policy.Unlimited, mine
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return hardValue(n), mine && err == nil && n != 0
}

// write has resources say v of a disk, and nothing when there is no limit. r's lists are replaced, not changed.
func (t throttle) write(r *specs.LinuxResources, disk policy.Disk, v policy.Value) {
	t.drop(r, disk)
	if v == policy.Unlimited {
		return
	}
	if r.BlockIO == nil {
		r.BlockIO = &specs.LinuxBlockIO{}
	}
	d := specs.LinuxThrottleDevice{Rate: uint64(max(v, 1))}
	d.Major, d.Minor = disk.Major, disk.Minor
	list := t.list(r.BlockIO)
	*list = append(*list, d)
}

// drop has resources say nothing of a disk.
func (t throttle) drop(r *specs.LinuxResources, disk policy.Disk) {
	if r.BlockIO != nil {
		list := t.list(r.BlockIO)
		*list = slices.DeleteFunc(slices.Clone(*list), func(d specs.LinuxThrottleDevice) bool {
			other, ok := diskOf(d)
			return ok && other == disk
		})
	}
	var rest []string
	for line := range strings.Lines(r.Unified[fileIOMax]) {
		if other, words, ok := ioLine(line); ok && other == disk {
			words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, t.word+"=") })
			if len(words) == 0 {
				continue
			}
			line = strings.Join(append([]string{disk.String()}, words...), " ")
		}
		rest = append(rest, strings.TrimSuffix(line, "\n"))
	}
	if rest == nil {
		dropUnified(r, fileIOMax)
		return
	}
	setUnified(r, fileIOMax, strings.Join(rest, "\n"))
}

// diskOf reads numbers as a spec has them. What cannot be a disk's is for runc to refuse.
func diskOf(d specs.LinuxThrottleDevice) (policy.Disk, bool) {
	disk, err := policy.ParseDisk(policy.Disk{Major: d.Major, Minor: d.Minor}.String())
	return disk, err == nil
}

// overlayIO lays the rates and the weight of an update over those of r, which is not shared.
func overlayIO(r *specs.LinuxResources, update *specs.LinuxBlockIO) {
	if v, ok := readIOWeight(&specs.LinuxResources{BlockIO: update}, false); ok {
		writeIOWeight(r, v)
	}
	for _, t := range throttles {
		for disk, v := range t.read(&specs.LinuxResources{BlockIO: update}, false) {
			t.write(r, disk, v)
		}
	}
}

// withoutIO leaves out of an update what the policy decides: Forefend writes rates and weight itself, and what runc is told it remembers.
func withoutIO(r *specs.LinuxResources, eff policy.Effective) {
	if _, decided := eff.Lookup(policy.KeyIOWeight); decided {
		writeIOWeight(r, policy.Unlimited)
	}
	for _, t := range throttles {
		for name := range eff.Members(t.family) {
			if disk, err := policy.ParseDisk(name); err == nil {
				t.drop(r, disk)
			}
		}
	}
}

// io writes the rates and the weight that differ from what the spec says.
func io(spec *specs.Spec, in Input) error {
	var before *specs.LinuxResources
	if spec.Linux != nil {
		before = spec.Linux.Resources
	}
	r := ownResources(before)
	changed := false
	for _, t := range throttles {
		said := t.read(r, in.Unified)
		decided := in.Effective.Members(t.family)
		for _, name := range slices.Sorted(maps.Keys(decided)) {
			disk, err := policy.ParseDisk(name)
			if err != nil {
				return fmt.Errorf("%s: %w: %w", t.family, err, errdefs.ErrInvalidArgument)
			}
			is, ok := said[disk]
			if !ok {
				is = policy.Unlimited
			}
			if is != decided[name] {
				t.write(r, disk, decided[name])
				changed = true
			}
		}
	}
	if f, decided := in.Effective.Lookup(policy.KeyIOWeight); decided {
		said, ok := readIOWeight(r, in.Unified)
		if !ok {
			said = policy.Unlimited
		}
		if said != f.Value {
			writeIOWeight(r, f.Value)
			changed = true
		}
	}
	if changed {
		linux(spec).Resources = r
	}
	return nil
}
