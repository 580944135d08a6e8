package bundle

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var namespaceTypes = map[specs.LinuxNamespaceType]configs.NamespaceType{
	specs.PIDNamespace:     configs.NEWPID,
	specs.NetworkNamespace: configs.NEWNET,
	specs.MountNamespace:   configs.NEWNS,
	specs.UserNamespace:    configs.NEWUSER,
	specs.IPCNamespace:     configs.NEWIPC,
	specs.UTSNamespace:     configs.NEWUTS,
	specs.CgroupNamespace:  configs.NEWCGROUP,
	specs.TimeNamespace:    configs.NEWTIME,
}

var propagations = []string{"", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}

// linuxConfig fills in what the Linux section says.
func linuxConfig(c *configs.Config, l *specs.Linux) error {
	if l == nil {
		return nil
	}
	if !slices.Contains(propagations, l.RootfsPropagation) {
		return fmt.Errorf("linux.rootfsPropagation: unknown %.40q", l.RootfsPropagation)
	}
	for i, ns := range l.Namespaces {
		t, known := namespaceTypes[ns.Type]
		if !known || c.Namespaces.Contains(t) {
			return fmt.Errorf("linux.namespaces[%d]: %.40q is unknown or there twice", i, ns.Type)
		}
		c.Namespaces.Add(t, ns.Path)
	}
	c.MaskPaths, c.ReadonlyPaths = l.MaskedPaths, l.ReadonlyPaths
	c.Sysctl, c.TimeOffsets = l.Sysctl, l.TimeOffsets
	for name, d := range l.NetDevices {
		if c.NetDevices == nil {
			c.NetDevices = map[string]*configs.LinuxNetDevice{}
		}
		c.NetDevices[name] = &configs.LinuxNetDevice{Name: d.Name}
	}
	if r := l.IntelRdt; r != nil {
		c.IntelRdt = &configs.IntelRdt{ClosID: r.ClosID, Schemata: r.Schemata, L3CacheSchema: r.L3CacheSchema,
			MemBwSchema: r.MemBwSchema, EnableMonitoring: r.EnableMonitoring}
	}
	if p := l.Personality; p != nil && p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
		return fmt.Errorf("linux.personality: unknown domain %.40q", p.Domain)
	}
	return errors.Join(userNamespace(c, l), devices(l.Devices), memoryPolicy(c, l.MemoryPolicy), filter(l.Seccomp))
}

var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault:            unix.MPOL_DEFAULT,
	specs.MpolPreferred:          unix.MPOL_PREFERRED,
	specs.MpolBind:               unix.MPOL_BIND,
	specs.MpolInterleave:         unix.MPOL_INTERLEAVE,
	specs.MpolLocal:              unix.MPOL_LOCAL,
	specs.MpolPreferredMany:      unix.MPOL_PREFERRED_MANY,
	specs.MpolWeightedInterleave: unix.MPOL_WEIGHTED_INTERLEAVE,
}

func memoryPolicy(c *configs.Config, p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	mode, known := memoryModes[p.Mode]
	if !known {
		return fmt.Errorf("linux.memoryPolicy: unknown mode %.40q", p.Mode)
	}
	nodes, err := configs.ToCPUSet(p.Nodes)
	if err != nil {
		return fmt.Errorf("linux.memoryPolicy: nodes %.100q: %w", p.Nodes, err)
	}
	for _, f := range p.Flags {
		if f != specs.MpolFStaticNodes && f != specs.MpolFRelativeNodes && f != specs.MpolFNumaBalancing {
			return fmt.Errorf("linux.memoryPolicy: unknown flag %.40q", f)
		}
	}
	c.MemoryPolicy = &configs.LinuxMemoryPolicy{Mode: mode, Nodes: nodes}
	return nil
}

// filter checks a seccomp profile with libcontainer's tables, and what runc's init
// would only find once the container is half made.
func filter(s *specs.LinuxSeccomp) error {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil
	}
	for _, f := range s.Flags {
		if !slices.Contains(seccomp.KnownFlags(), string(f)) {
			return fmt.Errorf("linux.seccomp: unknown flag %.60q", f)
		}
	}
	for _, a := range s.Architectures {
		if _, err := seccomp.ConvertStringToArch(string(a)); err != nil {
			return fmt.Errorf("linux.seccomp: %w", err)
		}
	}
	if _, err := seccomp.ConvertStringToAction(string(s.DefaultAction)); err != nil {
		return fmt.Errorf("linux.seccomp.defaultAction: %w", err)
	}
	if s.DefaultAction == specs.ActNotify {
		return errors.New("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default action")
	}
	for i, call := range s.Syscalls {
		if err := rule(call); err != nil {
			return fmt.Errorf("linux.seccomp.syscalls[%d]: %w", i, err)
		}
	}
	return nil
}

func rule(call specs.LinuxSyscall) error {
	if _, err := seccomp.ConvertStringToAction(string(call.Action)); err != nil {
		return err
	}
	if call.Action == specs.ActNotify && slices.Contains(call.Names, "write") {
		return errors.New("SCMP_ACT_NOTIFY cannot be used for write")
	}
	for _, arg := range call.Args {
		if _, err := seccomp.ConvertStringToOperator(string(arg.Op)); err != nil && len(call.Names) > 0 {
			return err
		}
	}
	return nil
}
