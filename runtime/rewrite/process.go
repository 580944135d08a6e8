package rewrite

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite/rawjson"
)

// Process makes an exec follow its container's policy: no capability the container may not have, and those that it may
// have since its creation, no_new_privileges as the policy has it, no higher resource limit. Who the process runs as (but see Permitted), its AppArmor and SELinux labels and all else stay
// the caller's choice; runc puts the container's seccomp filter on every exec.
//
// container is the spec the container was created with, after Apply. The result
// shares what was not clipped with p, which is not changed. The notes say what was
// clipped. For a privileged container that is left as asked, do not call it.
func Process(p *specs.Process, container *specs.Spec, eff policy.Effective) (*specs.Process, []string) {
	own := *p
	var notes []string
	if dropped := clipCapabilities(&own, process(container), eff); len(dropped) > 0 {
		notes = append(notes, "not in the container's policy, dropped: "+strings.Join(dropped, ", "))
	}
	if f, ok := eff.Lookup(policy.KeyNoNewPrivileges); ok && f.Value == policy.Tight && !own.NoNewPrivileges {
		own.NoNewPrivileges = true
		notes = append(notes, "no_new_privileges is on in the container's policy, switched on")
	} else if ok && f.Value != policy.Tight && process(container).NoNewPrivileges {
		own.NoNewPrivileges = false // what it says is the container's of before
	}
	gainCapabilities(&own, process(container), eff)
	if lowered := clipRlimits(&own, process(container), eff); len(lowered) > 0 {
		notes = append(notes, "over the container's policy, lowered: "+strings.Join(lowered, ", "))
	}
	return &own, notes
}

// ProcessJSON is Process on the JSON that containerd sends: fields that this
// version of the OCI spec does not know stay in it. JSON that needs no clipping is
// returned as it came. Errors are errdefs.ErrInvalidArgument.
func ProcessJSON(raw []byte, container *specs.Spec, eff policy.Effective) ([]byte, []string, error) {
	var p specs.Process
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, nil, fmt.Errorf("process of the exec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	after, notes := Process(&p, container, eff)
	before, _ := rawjson.Text(&p) // it was decoded from JSON
	out, err := rawjson.Edit(raw, before, after)
	if err != nil {
		return nil, nil, fmt.Errorf("process of the exec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return out, notes, nil
}

// clipCapabilities returns what it dropped. A process that names no capabilities
// gets those the container was created with; the policy may be tighter by now.
func clipCapabilities(p, container *specs.Process, eff policy.Effective) []string {
	has := named(container.Capabilities)
	members := eff.Members(policy.KeyCapabilities)
	var dropped []string
	allowed := func(name string) bool {
		v, decided := members[name]
		ok := decided && v != policy.Tight || !decided && has[name]
		if !ok && !slices.Contains(dropped, name) {
			dropped = append(dropped, name)
		}
		return ok
	}
	asked := p.Capabilities
	if asked == nil {
		asked = container.Capabilities
	}
	if c := clip(asked, allowed); len(dropped) > 0 {
		p.Capabilities = c
	}
	slices.Sort(dropped)
	return dropped
}

// gainCapabilities adds those that the policy has come to keep since the container was created: no client knows of them.
func gainCapabilities(p, container *specs.Process, eff policy.Effective) {
	asked := p.Capabilities
	if asked == nil {
		asked = container.Capabilities
	}
	before, names := named(container.Capabilities), named(asked)
	var add []string
	for name, v := range eff.Members(policy.KeyCapabilities) {
		if v != policy.Tight && !before[name] && !names[name] && policy.KnownCapability(name) {
			add = append(add, name)
		}
	}
	if len(add) == 0 {
		return
	}
	slices.Sort(add)
	c := clip(asked, func(string) bool { return true })
	c.Bounding, c.Effective, c.Permitted = union(c.Bounding, add), union(c.Effective, add), union(c.Permitted, add)
	p.Capabilities = c
}

// Permitted reports, as errdefs.ErrPermissionDenied, an exec that the policy does not let be: any, or root's. raw is the
// process as containerd sends it.
func Permitted(raw []byte, eff policy.Effective) error {
	f, ok := eff.Lookup(policy.KeyExec)
	if !ok || f.Value >= policy.ExecOn {
		return nil
	}
	var p specs.Process
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("process of the exec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if f.Value == policy.ExecNonRoot && p.User.UID != 0 {
		return nil
	}
	why := "nothing may be executed in this container"
	if f.Value == policy.ExecNonRoot {
		why = "nothing may be executed as root in this container (name another user)"
	}
	return fmt.Errorf("%s: exec = %s by %s, %s: %w", why, policy.KeyExec.Format(f.Value), f.Author, f.Source, errdefs.ErrPermissionDenied)
}

// clipRlimits returns what it lowered. What the process does not name it would
// inherit from runc, so the container's own limit is put in its place.
func clipRlimits(p, container *specs.Process, eff policy.Effective) []string {
	members := eff.Members(policy.KeyRlimits)
	var lowered []string
	for _, name := range rlimitNames {
		v, decided := members[name]
		if !decided || v == policy.Unlimited {
			continue
		}
		if !hasRlimit(p.Rlimits, name) {
			p.Rlimits = append(slices.Clone(p.Rlimits), own(container.Rlimits, name, v))
			continue
		}
		over := func(l specs.POSIXRlimit) bool { return l.Type == name && hardValue(l.Hard) > v }
		if slices.ContainsFunc(p.Rlimits, over) {
			p.Rlimits = lowerRlimit(p.Rlimits, name, v)
			lowered = append(lowered, name)
		}
	}
	return lowered
}

func hasRlimit(limits []specs.POSIXRlimit, name string) bool {
	return slices.ContainsFunc(limits, func(l specs.POSIXRlimit) bool { return l.Type == name })
}

// own is the container's limit, never over v.
func own(limits []specs.POSIXRlimit, name string, v policy.Value) specs.POSIXRlimit {
	l := specs.POSIXRlimit{Type: name, Hard: HardLimit(v), Soft: HardLimit(v)}
	for _, has := range limits {
		if has.Type == name {
			l.Hard, l.Soft = min(has.Hard, HardLimit(v)), min(has.Soft, HardLimit(v))
		}
	}
	return l
}

// lowerRlimit returns limits with those called name at most v.
func lowerRlimit(limits []specs.POSIXRlimit, name string, v policy.Value) []specs.POSIXRlimit {
	low := slices.Clone(limits)
	for i := range low {
		if low[i].Type == name {
			low[i].Hard = min(low[i].Hard, HardLimit(v))
			low[i].Soft = min(low[i].Soft, low[i].Hard)
		}
	}
	return low
}
