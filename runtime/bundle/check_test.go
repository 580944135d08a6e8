package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func parse(t testing.TB, raw []byte) *specs.Spec {
	t.Helper()
	s := new(specs.Spec)
	if err := json.Unmarshal(raw, s); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return s
}

// here takes out of a spec what only another machine than this one has: the
// files of cgroup v2, and namespaces of containers that do not run.
func here(s *specs.Spec) *specs.Spec {
	if s.Linux != nil && s.Linux.Resources != nil && !cgroups.IsCgroup2UnifiedMode() {
		s.Linux.Resources.Unified = nil
	}
	return s
}

func TestCheckCorpus(t *testing.T) {
	for name, raw := range corpus(t) {
		if err := Check(here(parse(t, raw)), CheckOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCheckGoldens: what package rewrite makes of its golden specs is what runc
// accepts.
func TestCheckGoldens(t *testing.T) {
	for file, raw := range goldens(t) {
		if err := Check(here(parse(t, raw)), CheckOptions{}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob("../rewrite/testdata/steps/*/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	out := make(map[string][]byte)
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var g struct{ Want json.RawMessage }
		if err := json.Unmarshal(raw, &g); err != nil {
			t.Fatal(err)
		}
		out[name] = g.Want
	}
	return out
}

// refused are specs that runc refuses, each by a change to an accepted one.
var refused = map[string]struct {
	change  func(*specs.Spec)
	systemd bool
	want    string
}{
	"no root":             {change: func(s *specs.Spec) { s.Root = nil }, want: "root"},
	"no process":          {change: func(s *specs.Spec) { s.Process = nil }, want: "process"},
	"no args":             {change: func(s *specs.Spec) { s.Process.Args = nil }, want: "process.args"},
	"relative cwd":        {change: func(s *specs.Spec) { s.Process.Cwd = "x" }, want: "process.cwd"},
	"rlimit":              {change: func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "NOFILE"}} }, want: "process.rlimits[0]"},
	"affinity":            {change: func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "x"} }, want: "invalid"},
	"scheduler":           {change: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }, want: "scheduler"},
	"io priority":         {change: func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Priority: 9} }, want: "ioPriority"},
	"mount":               {change: func(s *specs.Spec) { s.Mounts[1].Source = "a\x00" }, want: "mounts[1]"},
	"mask without mounts": {change: func(s *specs.Spec) { s.Linux.Namespaces = nil }, want: "MNT namespace"},
	"namespace twice": {change: func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0])
	}, want: "linux.namespaces["},
	"unknown namespace": {change: func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "x" }, want: "linux.namespaces[0]"},
	"hostname":          {change: func(s *specs.Spec) { s.Hostname, s.Linux.Namespaces = "h", keep(s, "mount") }, want: "UTS"},
	"userns, no root":   {change: func(s *specs.Spec) { userns(s, 5) }, want: "uid"},
	"propagation":       {change: func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" }, want: "rootfsPropagation"},
	"sysctl":            {change: func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} }, want: "sysctl"},
	"device":            {change: func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Type: "x"}} }, want: "linux.devices[0]"},
	"device rule":       {change: func(s *specs.Spec) { s.Linux.Resources.Devices[0].Access = "" }, want: "devices[0]"},
	"device rule type":  {change: func(s *specs.Spec) { s.Linux.Resources.Devices[0].Type = "x" }, want: "devices[0]"},
	"personality":       {change: func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} }, want: "personality"},
	"net device": {change: func(s *specs.Spec) {
		s.Linux.NetDevices, s.Linux.Namespaces = map[string]specs.LinuxNetDevice{"e": {}}, keep(s, "mount")
	}, want: "NET namespace"},
	"memory policy":       {change: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "x"} }, want: "memoryPolicy"},
	"memory policy nodes": {change: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "x"} }, want: "nodes"},
	"memory policy flag": {change: func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_LOCAL", Flags: []specs.MemoryPolicyFlagType{"x"}}
	}, want: "flag"},
	"memory policy without nodes": {change: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_BIND"} }, want: "at least one node"},
	"systemd path":                {change: func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/b" }, systemd: true, want: "cgroupsPath"},
	"seccomp action":              {change: func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "x"} }, want: "defaultAction"},
	"seccomp arch":                {change: func(s *specs.Spec) { profile(s).Architectures = []specs.Arch{"x"} }, want: "arch"},
	"seccomp rule":                {change: func(s *specs.Spec) { profile(s).Syscalls[0].Action = "x" }, want: "syscalls[0]"},
	"seccomp op":                  {change: func(s *specs.Spec) { profile(s).Syscalls[0].Args = []specs.LinuxSeccompArg{{Op: "x"}} }, want: "operator"},
}

// refusedLater are those that only runc's init finds, when the container is half made.
var refusedLater = map[string]func(*specs.Spec){
	"default action notify": func(s *specs.Spec) { profile(s).DefaultAction = specs.ActNotify },
	"write notify":          func(s *specs.Spec) { profile(s).Syscalls[0].Action = specs.ActNotify },
	"unknown flag":          func(s *specs.Spec) { profile(s).Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_X"} },
}

func profile(s *specs.Spec) *specs.LinuxSeccomp {
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{Names: []string{"write"}, Action: specs.ActAllow}}}
	return s.Linux.Seccomp
}

func keep(s *specs.Spec, t specs.LinuxNamespaceType) []specs.LinuxNamespace {
	return []specs.LinuxNamespace{{Type: t}}
}

func userns(s *specs.Spec, first uint32) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: first, HostID: 1000, Size: 10}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
}

func TestCheckRefuses(t *testing.T) {
	for name, c := range refused {
		t.Run(name, func(t *testing.T) {
			good, bad := parse(t, corpus(t)["ctr-default"]), parse(t, corpus(t)["ctr-default"])
			c.change(bad)
			opts := CheckOptions{SystemdCgroup: c.systemd}
			if c.systemd {
				good.Linux.CgroupsPath = "system.slice:forefend:x"
			}
			err := Check(bad, opts)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err := CheckRewrite(bad, bad, opts); err != nil {
				t.Errorf("the original does not pass either, and yet: %v", err)
			}
			if err := CheckRewrite(good, bad, opts); err == nil {
				t.Error("a rewrite that broke the spec passes")
			}
			checkBundle(t, good, opts, c.change)
		})
	}
	for name, change := range refusedLater {
		s := parse(t, corpus(t)["ctr-default"])
		change(s)
		if err := Check(s, CheckOptions{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// systemdPaths are cgroup paths, and whether runc's systemd driver takes them.
var systemdPaths = map[string]bool{
	"": true, "system.slice:forefend:x": true, "kubepods-burstable-pod1.slice:cri-containerd:abc": true, ":runc:x": true, "a.slice::x": true,
	"/a/b": false, "a.slice:b": false, "a.slice:b:c:d": false,
}

func TestCheckKnowsTheCgroupDriver(t *testing.T) {
	for path, ok := range systemdPaths {
		s := parse(t, corpus(t)["ctr-default"])
		s.Linux.CgroupsPath = path
		if err := Check(s, CheckOptions{SystemdCgroup: true}); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
		if err := Check(s, CheckOptions{}); err != nil { // the other driver takes any
			t.Errorf("%q without systemd: %v", path, err)
		}
	}
}

// checkBundle is the same comparison on a bundle.
func checkBundle(t *testing.T, original *specs.Spec, opts CheckOptions, change func(*specs.Spec)) {
	t.Helper()
	raw, err := json.Marshal(original)
	if err != nil {
		t.Fatal(err)
	}
	b := load(t, newBundle(t, raw))
	if err := b.Check(opts); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	change(b.Spec())
	if err := b.Check(opts); !errdefs.IsInvalidArgument(err) {
		t.Errorf("broken: %v", err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(opts); err != nil {
		t.Errorf("the file holds no better, and yet: %v", err)
	}
}

// accepted are changes runc takes.
var accepted = map[string]func(*specs.Spec){
	"nothing":        func(*specs.Spec) {},
	"no linux":       func(s *specs.Spec) { s.Linux = nil },
	"no resources":   func(s *specs.Spec) { s.Linux.Resources = nil },
	"absent rootfs":  func(s *specs.Spec) { s.Root.Path = "/does/not/exist/yet" },
	"user namespace": func(s *specs.Spec) { userns(s, 0) },
	"empty seccomp":  func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} },
	"rule for nothing": func(s *specs.Spec) {
		profile(s).Syscalls[0] = specs.LinuxSyscall{Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "x"}}}
	},
	"notify": func(s *specs.Spec) {
		profile(s).Syscalls = append(s.Linux.Seccomp.Syscalls, specs.LinuxSyscall{Names: []string{"bpf"}, Action: specs.ActNotify})
	},
	"unknown capability": func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"x"} },
	"net device":         func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"e": {}} },
	"memory policy": func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	},
	"personality": func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux} },
	"propagation": func(s *specs.Spec) { s.Linux.RootfsPropagation = "rslave" },
	"limits": func(s *specs.Spec) {
		n := int64(1 << 20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &n, Swap: &n, Reservation: &n}
	},
}

func TestCheckAccepts(t *testing.T) {
	for name, change := range accepted {
		s := parse(t, corpus(t)["ctr-default"])
		change(s)
		if err := Check(s, CheckOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := parse(t, corpus(t)["ctr-default"])
	userns(s, 0)
	s.Linux.Namespaces[len(s.Linux.Namespaces)-1].Path = "/proc/self/ns/user"
	if err := Check(s, CheckOptions{}); err != nil { // runc compares the mappings; we cannot
		t.Errorf("joined user namespace: %v", err)
	}
}
