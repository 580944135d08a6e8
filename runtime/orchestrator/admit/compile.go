package admit

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// compile turns the decided verdicts into what runc loads and the table that
// answers its notifications.
func (p callPlan) compile(d *api.Decision, in Input) error {
	if in.Request.ListenerPath == "" {
		return fmt.Errorf("the request names no socket for seccomp notifications: %w", errdefs.ErrInvalidArgument)
	}
	c, err := in.Compiler.compiled(p, verdictsOf(d.Effective, p.ruled, in.Request.Own))
	switch {
	case err == nil:
	case leaveAlone(err):
		d.Notes = append(d.Notes, "system calls are not supervised, the requested profile stays as it is: "+err.Error())
		return nil
	default:
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	profile := c.profile
	profile.ListenerPath, profile.ListenerMetadata = in.Request.ListenerPath, d.Facts.ID.String()
	d.Seccomp, d.Table = &profile, c.table
	return nil
}

// verdicts are the decided verdicts: of the calls of the table in its order,
// undecided where nobody decided, and of others by name.
type verdicts struct {
	native []seccomp.Verdict
	others map[string]seccomp.Verdict // nil: none
}

// Beside the verdicts proper.
const (
	undecided = seccomp.Native + 1 + iota
	kin       // denied, but not among the caller's own processes
	own       // denied to the container's own processes, not to executed ones
)

// verdictsOf reads them from the policy. Of the calls in ruled no denial has exceptions; without mayOwn none has that
// of executed processes.
func verdictsOf(e policy.Effective, ruled map[policy.Key]bool, mayOwn bool) verdicts {
	table := calls()
	v := verdicts{native: make([]seccomp.Verdict, len(table.list))}
	for i := range v.native {
		v.native[i] = undecided
	}
	for _, f := range e.Fields {
		if f.Key != policy.KeySyscalls || f.NoValue {
			continue
		}
		for _, name := range f.Names {
			if i, known := table.index[name]; known {
				v.native[i] = seccomp.Verdict(f.Value)
				if f.Value == policy.SyscallDeny && f.Author == policy.Default && !ruled[table.list[i].key] {
					v.native[i] = exception(f.Reason)
				}
				if v.native[i] == own && !mayOwn {
					v.native[i] = seccomp.Deny
				}
				continue
			}
			if v.others == nil {
				v.others = make(map[string]seccomp.Verdict)
			}
			v.others[name] = seccomp.Verdict(f.Value)
		}
	}
	return v
}

// exception is a denial, with the exception that belongs to its reason.
func exception(reason string) seccomp.Verdict {
	switch reason {
	case kinOnly:
		return kin
	case unreached, unlearned:
		return own
	}
	return seccomp.Deny
}

// byName is what seccomp.Compile wants. Where nobody decides (observe mode) the
// hot calls stay fast.
func (v verdicts) byName() map[string]seccomp.Verdict {
	out := make(map[string]seccomp.Verdict, len(v.native)+len(v.others))
	for i, c := range calls().list {
		switch {
		case v.native[i] == kin || v.native[i] == own:
			out[c.name] = seccomp.Deny
		case v.native[i] != undecided:
			out[c.name] = v.native[i]
		case c.class == seccomp.ClassHot:
			out[c.name] = seccomp.Native
		}
	}
	maps.Copy(out, v.others)
	return out
}

// with lists the calls with the given verdict, kin or own.
func (v verdicts) with(exception seccomp.Verdict) (names []string) {
	for i, c := range calls().list {
		if v.native[i] == exception {
			names = append(names, c.name)
		}
	}
	return names
}

// compiled is a compiled profile without its listener, and its encoded table.
// Both are shared and never written to.
type compiled struct {
	profile specs.LinuxSeccomp
	table   []byte
}

func (p callPlan) compileCalls(v verdicts) (compiled, error) {
	profile, table, err := seccomp.Compile(seccomp.Request{
		Requested: p.widened(v), Verdicts: v.byName(), Kin: v.with(kin), Own: v.with(own), Fallback: p.fallback,
		ForeignArch:  true, // docs/decisions/0005: refused by name like all calls, not by killing a thread
		AllowUnknown: p.open,
		ListenerPath: "to be named",
	})
	if err != nil {
		return compiled{}, err
	}
	body, err := table.MarshalBinary()
	if err != nil {
		return compiled{}, fmt.Errorf("encode system call table: %w", err)
	}
	return compiled{*profile, body}, nil
}

// widened adds to Forefend's default profile the calls that somebody with the
// right to it allowed beyond it. A requested profile is never widened.
func (p callPlan) widened(v verdicts) *specs.LinuxSeccomp {
	if !p.ours {
		return p.profile
	}
	table := calls()
	allowed := table.allowedBy(p.profile)
	var extra []string
	for i, c := range table.list {
		if v.native[i] < undecided && v.native[i] >= seccomp.Watch && !allowed[i] {
			extra = append(extra, c.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.others)) {
		if v.others[name] >= seccomp.Watch {
			extra = append(extra, name)
		}
	}
	if len(extra) == 0 {
		return p.profile
	}
	wider := *p.profile
	wider.Syscalls = append(slices.Clone(p.profile.Syscalls), specs.LinuxSyscall{Names: extra, Action: specs.ActAllow})
	return &wider
}
