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
	v := verdictsOf(d.Effective)
	p.foreign = p.foreign || len(v.others) > 0 // calls of the other numbering, about which somebody decided by name
	if !p.foreign {
		d.Notes = append(d.Notes, endsThread)
	}
	c, err := in.Compiler.compiled(p, v)
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

// endsThread says that the filter has rules for one numbering of calls only.
const endsThread = "32-bit calls end the thread that makes them: no earlier run made one, and nothing in the image does"

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

// verdictsOf reads them from the policy.
func verdictsOf(e policy.Effective) verdicts {
	table := calls()
	v := verdicts{native: make([]seccomp.Verdict, len(table.list))}
	for i := range v.native {
		v.native[i] = undecided
	}
	for _, f := range e.Fields {
		if f.Key != policy.KeySyscalls || f.NoValue {
			continue
		}
		verdict, except := CallVerdict(f)
		for _, name := range f.Names {
			if i, known := table.index[name]; known {
				switch v.native[i] = verdict; except {
				case seccomp.ExceptKin:
					v.native[i] = kin
				case seccomp.ExceptExecuted:
					v.native[i] = own
				}
				continue
			}
			if v.others == nil {
				v.others = make(map[string]seccomp.Verdict)
			}
			v.others[name] = verdict
		}
	}
	return v
}

// CallVerdict is what a decided field of system calls means: the verdict, and for whom a denial does not hold. Compiling
// a profile and changing a running container's table both follow it.
func CallVerdict(f policy.Field) (seccomp.Verdict, seccomp.Exception) {
	v := seccomp.Verdict(f.Value)
	if v != seccomp.Deny || f.Author != policy.Default {
		return v, seccomp.NoException
	}
	return v, exception(f.Reason)
}

// exception is that of a default denial for this reason.
func exception(reason string) seccomp.Exception {
	switch reason {
	case kinOnly:
		return seccomp.ExceptKin
	case unreached, unlearned:
		return seccomp.ExceptExecuted
	}
	return seccomp.NoException
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
		Requested: p.widened(v), Ours: p.ours, Verdicts: v.byName(), Kin: v.with(kin), Own: v.with(own), Fallback: p.fallback,
		ForeignArch:  p.foreign,
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
