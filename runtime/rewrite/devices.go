package rewrite

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// devices claims what a spec's list of devices comes to. Access that is no point of the scale is claimed as the tightest one that
// holds it all ("w" as rw); mknod alone opens nothing and is not claimed. A list that allows all is claimed as all character
// and all block devices.
func (c *claims) devices(rules []specs.LinuxDeviceCgroup) {
	access, _ := deviceAccess(rules)
	for _, d := range slices.Sorted(maps.Keys(access)) {
		// What runc opens whatever the list says was not asked to be closed by a list that allows less of it.
		if v, ok := deviceValue(joined(access[d], alwaysOpen[d])); ok {
			c.add(policy.KeyDevices.Member(d), v)
		}
	}
}

// deviceAccess is what a list of rules, in order, comes to: the letters by device, and whether all is allowed that is not
// denied.
func deviceAccess(rules []specs.LinuxDeviceCgroup) (access map[string]string, all bool) {
	access = make(map[string]string)
	for _, r := range rules {
		if r.Type == "" || r.Type == "a" {
			clear(access)
			if all = r.Allow; all {
				access[allCharacter], access[allBlock] = "rwm", "rwm"
			}
			continue
		}
		d, ok := deviceOf(r)
		if !ok {
			continue
		}
		name := d.String()
		access[name] = letters(func(l byte) bool {
			named := strings.IndexByte(r.Access, l) >= 0
			return r.Allow && named || (r.Allow || !named) && strings.IndexByte(access[name], l) >= 0
		})
	}
	return access, all
}

// Members that stand for a list that allows all.
const allCharacter, allBlock = "c:*:*", "b:*:*"

func letters(has func(byte) bool) string {
	var out []byte
	for _, l := range []byte("rwm") {
		if has(l) {
			out = append(out, l)
		}
	}
	return string(out)
}

func deviceOf(r specs.LinuxDeviceCgroup) (policy.Device, bool) {
	number := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	d, err := policy.ParseDevice(strings.Replace(r.Type, "u", "c", 1) + ":" + number(r.Major) + ":" + number(r.Minor))
	return d, err == nil
}

// deviceValue is the point of the scale for some letters; mknod alone has none.
func deviceValue(access string) (policy.Value, bool) {
	switch access {
	case "":
		return policy.DeviceNone, true
	case "m":
		return 0, false
	case "r", "rm":
		return policy.DeviceRead, true
	case "rwm":
		return policy.DeviceAll, true
	}
	return policy.DeviceReadWrite, true
}

// devices appends rules for what the policy decided otherwise than the spec has it. What runc opens for every container,
// whatever the spec says, it closes again no earlier than the container exists (DeviceAccess).
func devices(spec *specs.Spec, in Input) error {
	var rules []specs.LinuxDeviceCgroup
	if spec.Linux != nil && spec.Linux.Resources != nil {
		rules = spec.Linux.Resources.Devices
	}
	before, all := deviceAccess(rules)
	after, err := decidedAccess(before, all, in.Effective)
	if err != nil {
		return err
	}
	var add []specs.LinuxDeviceCgroup
	for _, name := range slices.Sorted(maps.Keys(after)) {
		d, _ := policy.ParseDevice(name) // decidedAccess did
		has := entry(before, all, name)
		if after[name] == has {
			continue
		}
		if has != "" {
			add = append(add, deviceRule(d, false, "rwm"))
		}
		if after[name] != "" {
			add = append(add, deviceRule(d, true, after[name]))
		}
	}
	if len(add) == 0 {
		return nil
	}
	l := linux(spec)
	if l.Resources == nil {
		l.Resources = &specs.LinuxResources{}
	}
	l.Resources.Devices = append(slices.Clone(rules), add...)
	return nil
}

// decidedAccess is access with what a policy decided otherwise. The error says that a device cannot be kept from a container
// that has all of its like.
func decidedAccess(access map[string]string, all bool, eff policy.Effective) (map[string]string, error) {
	out := maps.Clone(access)
	members := eff.Members(policy.KeyDevices)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if _, err := policy.ParseDevice(name); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		v := members[name]
		if has, ok := deviceValue(joined(entry(access, all, name), alwaysOpen[name])); ok && has == v { // also "w" where the claim is rw
			continue
		}
		out[name] = ""
		if v != policy.DeviceNone {
			out[name] = policy.KeyDevices.Format(v)
		}
	}
	if all { // exceptions are what such a list is made of, but it has none from its exceptions
		for _, name := range slices.Sorted(maps.Keys(members)) {
			if was, listed := access[name]; listed && out[name] == was {
				continue // as it was asked for is for runc to judge
			}
			if by := opensLess(out, name); by != "" {
				return nil, fmt.Errorf("device %s cannot be given to a container that is denied all of %s and has all else: allow %[2]s: %[3]w",
					name, by, errdefs.ErrFailedPrecondition)
			}
		}
		return out, nil
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if by := opensMore(out, name); by != "" {
			return nil, fmt.Errorf("device %s cannot be kept from a container that has all of %s: deny that, and allow what it needs: %w",
				name, by, errdefs.ErrFailedPrecondition)
		}
	}
	return out, nil
}

// entry is what a list says of a member; where all is allowed that is not denied, silence means all.
func entry(access map[string]string, all bool, name string) string {
	letters, listed := access[name]
	if all && !listed {
		return "rwm"
	}
	return letters
}

// opensLess is an exception that covers the device and keeps it from being read or written where its own entry does not.
func opensLess(access map[string]string, name string) string {
	own := entry(access, true, name)
	d, _ := policy.ParseDevice(name)
	for _, other := range slices.Sorted(maps.Keys(access)) {
		if o, err := policy.ParseDevice(other); err != nil || o == d || !o.Covers(d) {
			continue
		}
		for _, l := range "rw" {
			if !strings.ContainsRune(access[other], l) && strings.ContainsRune(own, l) {
				return other
			}
		}
	}
	return ""
}

// opensMore is an entry that covers the device and lets it be read or written where its own does not.
func opensMore(access map[string]string, name string) string {
	d, _ := policy.ParseDevice(name)
	for _, other := range slices.Sorted(maps.Keys(access)) {
		if o, err := policy.ParseDevice(other); err != nil || o == d || !o.Covers(d) {
			continue
		}
		for _, l := range "rw" {
			if strings.ContainsRune(access[other], l) && !strings.ContainsRune(access[name], l) {
				return other
			}
		}
	}
	return ""
}

// alwaysOpen is what runc opens for every container beside its spec (AllowedDevices of its specconv).
var alwaysOpen = map[string]string{
	allCharacter: "m", allBlock: "m", "c:1:3": "rwm", "c:1:8": "rwm", "c:1:7": "rwm", "c:5:0": "rwm", "c:1:5": "rwm",
	"c:1:9": "rwm", "c:136:*": "rwm", "c:5:2": "rwm", "c:10:200": "rwm",
}

// DeviceAccess is which devices a container can use, in letters of "rwm" by member of KeyDevices: as it was created, and as a
// policy has it. A narrower entry decides about reading and writing, a wider one can still allow mknod. container is the spec that it
// was created with, after Apply. The error is errdefs.ErrFailedPrecondition for a device that cannot be kept from the container.
func DeviceAccess(container *specs.Spec, eff policy.Effective) (created, decided map[string]string, err error) {
	var rules []specs.LinuxDeviceCgroup
	if container.Linux != nil && container.Linux.Resources != nil {
		rules = container.Linux.Resources.Devices
	}
	created, all := deviceAccess(rules)
	for name, letters := range alwaysOpen {
		created[name] = joined(created[name], letters)
	}
	decided, err = decidedAccess(created, all, eff)
	for name := range decided {
		created[name] = entry(created, all, name)
	}
	return created, decided, err
}

func joined(a, b string) string {
	return letters(func(l byte) bool { return strings.IndexByte(a, l) >= 0 || strings.IndexByte(b, l) >= 0 })
}

func deviceRule(d policy.Device, allow bool, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: allow, Type: string(d.Type), Access: access}
	if d.Major != policy.AnyNumber {
		r.Major = &d.Major
	}
	if d.Minor != policy.AnyNumber {
		r.Minor = &d.Minor
	}
	return r
}
