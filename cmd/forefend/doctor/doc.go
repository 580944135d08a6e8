// Package doctor looks at what this node offers Forefend: kernel features, cgroups, privileges and tools. Each probe tries
// the thing itself where that is harmless, instead of reading a version number.
//
// For each row that is not in order it says what that costs and what to do. It changes nothing that outlives a probe, and it
// asks neither the daemon nor a running containerd. Only `forefend doctor` calls it, from any goroutine; probes that change a thread's state use a thread of their own that ends with them.
package doctor

import "context"

// State is what a probe concludes.
type State string

// The states of a row. Degraded works, but less well or less of it; missing means that containers cannot be governed.
const (
	OK       State = "ok"
	Degraded State = "degraded"
	Missing  State = "missing"
)

// Row is what one probe found.
type Row struct {
	Feature string `json:"feature"`
	State   State  `json:"state"`
	Found   string `json:"found"`          // what is there, or why it is not
	Cost    string `json:"cost,omitempty"` // what works less well, or not at all, for that
	Fix     string `json:"fix,omitempty"`  // what to do about it
}

func ok(feature, found string) Row { return Row{Feature: feature, State: OK, Found: found} }

func degraded(feature, found, cost, fix string) Row {
	return Row{Feature: feature, State: Degraded, Found: found, Cost: cost, Fix: fix}
}

func missing(feature, found, cost, fix string) Row {
	return Row{Feature: feature, State: Missing, Found: found, Cost: cost, Fix: fix}
}

// Probe is one look at the node.
type Probe struct {
	Name string
	Look func(context.Context) []Row
}

// Probes lists all probes in the order of their rows.
func Probes() []Probe {
	one := func(name string, look func() Row) Probe {
		return Probe{name, func(context.Context) []Row { return []Row{look()} }}
	}
	return []Probe{
		one("kernel", kernel),
		one("privileges", privileges),
		one("CAP_SYS_RESOURCE", sysResource),
		{"system calls", func(context.Context) []Row { return callRows(needed) }},
		{"seccomp", func(context.Context) []Row { return seccompRows(trySeccomp()) }},
		{"cgroups", cgroupRows},
		one("pressure", func() Row { return pressure("/proc/pressure") }),
		one("inotify", func() Row { return inotify("/proc/sys/fs/inotify") }),
		{"tools", toolRows},
		one("BPF on cgroups", bpfAttach),
		one("kernel WireGuard", wireGuard),
		one("Landlock", landlock),
	}
}
