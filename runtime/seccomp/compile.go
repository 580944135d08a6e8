package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrOwnListener is returned by Compile for a profile that uses SCMP_ACT_NOTIFY
// itself: a process has one listener, so such a container is not supervised.
var ErrOwnListener = errors.New("the requested seccomp profile has a listener of its own")

// ErrIndispensable is returned by Compile when a verdict would deny a call
// without which runc cannot start any container.
var ErrIndispensable = errors.New("runc needs the system call to start a container")

// ErrUnsupportedProfile is returned by Compile for a requested profile whose
// meaning it cannot keep.
var ErrUnsupportedProfile = errors.New("the requested seccomp profile cannot be supervised")

// Request is what Compile turns into a profile and its table.
type Request struct {
	// Requested is the profile asked for; the result is never wider. Not nil.
	Requested *specs.LinuxSeccomp
	// Verdicts per name. Looser ones than Requested have no effect.
	Verdicts map[string]Verdict
	// Fallback is for names that Requested allows and Verdicts lacks; normally Watch.
	Fallback Verdict
	// ForeignArch keeps the kernel's 32-bit architecture. Otherwise such calls kill the thread that makes them: for
	// containers of which it is known that they make none.
	ForeignArch bool
	// AllowUnknown lets calls pass that neither this program nor libseccomp knows,
	// where nobody asked for a profile that denies by default. See open.go.
	AllowUnknown bool
	// Ours says that Requested is Forefend's own default, so that nobody asked for its denials: of the dangerous calls that it
	// does not list each can be allowed on the running container, by Table.SetVerdict.
	Ours bool
	// Kin names calls whose verdict Deny does not hold among the caller's own
	// processes; those for which AmongKin is false are denied altogether.
	Kin []string
	// Own names calls whose verdict Deny holds for the container's own processes, not for
	// those that a client of containerd executes in it, nor their children.
	Own []string
	// ListenerPath is the socket of Supervisor.Attach; ListenerMetadata is passed on.
	ListenerPath, ListenerMetadata string
}

// Compile returns the profile runc is to load and the table that answers its
// notifications. Neither shares memory with the request. See docs in
// compile_rules.go for what becomes of each requested rule.
//
// A default action that allows is replaced by ENOSYS and every call known is
// listed instead, because a default cannot be watched: calls newer than this
// program or libseccomp then look like calls newer than the kernel, which
// programs cope with. AllowUnknown turns that round.
//
// It returns ErrOwnListener, ErrIndispensable or ErrUnsupportedProfile.
func Compile(req Request) (*specs.LinuxSeccomp, *Table, error) {
	if req.Requested == nil {
		return nil, nil, errors.New("compile seccomp profile: no requested profile")
	}
	if req.ListenerPath == "" {
		return nil, nil, errors.New("compile seccomp profile: no listener path")
	}
	p, err := newPlan(req)
	if err != nil {
		return nil, nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	for _, name := range p.names {
		if !p.foreign && ForeignOnly(name) {
			continue // no process can make it
		}
		if err := p.call(name); err != nil {
			return nil, nil, fmt.Errorf("compile seccomp profile: %s: %w", name, err)
		}
	}
	p.showDenials()
	if req.AllowUnknown {
		p.open()
	}
	p.table.bound()
	return p.profile(), p.table, nil
}

// rule is one requested or resulting rule of one call.
type rule struct {
	action specs.LinuxSeccompAction
	errno  *uint
	args   []specs.LinuxSeccompArg
}

func (r rule) permissive() bool { return permissive(r.action) }

func permissive(a specs.LinuxSeccompAction) bool { return a == specs.ActAllow || a == specs.ActLog }

// plan is a compilation under way.
type plan struct {
	req      Request
	names    []string // in the order of first mention
	rules    map[string][]rule
	defaults rule                     // the default action of the result
	widest   specs.LinuxSeccompAction // default action requested
	foreign  bool
	out      []specs.LinuxSyscall
	listed   map[listKey]int // index in out of rules without arguments
	complete map[string]bool // calls whose conditional rules together cover every use
	table    *Table
}

type listKey struct {
	action specs.LinuxSeccompAction
	errno  uint
}

func newPlan(req Request) (*plan, error) {
	p := &plan{
		req: req, rules: make(map[string][]rule), table: &Table{},
		listed:   make(map[listKey]int),
		complete: make(map[string]bool),
		widest:   req.Requested.DefaultAction,
		defaults: rule{action: req.Requested.DefaultAction, errno: req.Requested.DefaultErrnoRet},
		foreign:  req.ForeignArch && slices.Contains(req.Requested.Architectures, foreignArch),
	}
	if p.widest == specs.ActNotify {
		return nil, fmt.Errorf("%w: as its default action", ErrUnsupportedProfile)
	}
	for _, s := range req.Requested.Syscalls {
		if s.Action == specs.ActNotify {
			return nil, ErrOwnListener
		}
		for _, name := range s.Names {
			p.mention(name)
			if permissive(p.widest) && s.Action == p.widest {
				continue // runc leaves it out, so a later rule that denies counts
			}
			p.rules[name] = append(p.rules[name], rule{s.Action, s.ErrnoRet, s.Args})
		}
	}
	if permissive(p.widest) {
		enosys := uint(unix.ENOSYS)
		p.defaults = rule{action: specs.ActErrno, errno: &enosys}
		p.mentionAll()
	}
	return p, nil
}

func (p *plan) mention(name string) {
	if _, ok := p.rules[name]; !ok {
		p.rules[name] = nil
		p.names = append(p.names, name)
	}
}

func (p *plan) mentionAll() {
	for _, name := range Names() {
		p.mention(name)
	}
	if !p.foreign {
		return
	}
	for _, row := range foreignSyscalls {
		p.mention(row.name)
	}
}

// emit adds rules for name to the result. The first of several unconditional
// rules wins in libseccomp, so their order is kept: only a call with a single rule
// joins a list of names.
func (p *plan) emit(name string, rules ...rule) {
	if len(rules) == 1 && len(rules[0].args) == 0 {
		p.list(name, rules[0])
		return
	}
	for _, r := range rules {
		p.out = append(p.out, specs.LinuxSyscall{Names: []string{name}, Action: r.action, ErrnoRet: clone(r.errno), Args: slices.Clone(r.args)})
	}
}

// list adds name to the list of names with the unconditional rule r.
func (p *plan) list(name string, r rule) {
	key := listKey{action: r.action, errno: ^uint(0)}
	if r.errno != nil {
		key.errno = *r.errno
	}
	i, ok := p.listed[key]
	if !ok {
		i = len(p.out)
		p.listed[key] = i
		p.out = append(p.out, specs.LinuxSyscall{Action: r.action, ErrnoRet: clone(r.errno)})
	}
	p.out[i].Names = append(p.out[i].Names, name)
}

func clone(errno *uint) *uint {
	if errno == nil {
		return nil
	}
	v := *errno
	return &v
}

// profile assembles the result; flags stay as requested.
func (p *plan) profile() *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: p.defaults.action, DefaultErrnoRet: clone(p.defaults.errno),
		Architectures: p.architectures(), Flags: slices.Clone(p.req.Requested.Flags),
		ListenerPath: p.req.ListenerPath, ListenerMetadata: p.req.ListenerMetadata,
		Syscalls: p.out,
	}
}

// architectures keeps the native one, which libseccomp has in any case, and the
// 32-bit one where it is wanted. x32 is always refused: its calls carry numbers of
// their own that a second look at the same table would have to know, no
// distribution ships programs for it, and few kernels still run them.
func (p *plan) architectures() []specs.Arch {
	var kept []specs.Arch
	for _, a := range p.req.Requested.Architectures {
		if a == nativeArch || a == foreignArch && p.foreign {
			kept = append(kept, a)
		}
	}
	return kept
}

// verdict returns the verdict for name and whether Verdicts names it.
func (p *plan) verdict(name string) (v Verdict, explicit bool) {
	if v, ok := p.req.Verdicts[name]; ok {
		return min(v, Native), true
	}
	return min(p.req.Fallback, Native), false
}
