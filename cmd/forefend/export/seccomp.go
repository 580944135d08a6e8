package export

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/predictor/recommend"
	"forefend.dev/forefend/runtime/seccomp"
)

// profileJSON is specs.LinuxSeccomp with comments, of which readers of it know nothing: they leave out what they do not know.
type profileJSON struct {
	Comment       []string                 `json:"comment"`
	DefaultAction specs.LinuxSeccompAction `json:"defaultAction"`
	DefaultErrno  *uint                    `json:"defaultErrnoRet,omitempty"`
	Architectures []specs.Arch             `json:"architectures,omitempty"`
	Syscalls      []syscallJSON            `json:"syscalls"`
}

type syscallJSON struct {
	Comment string `json:"comment,omitempty"`
	specs.LinuxSyscall
}

// runcInit is what runc and crun do after they loaded the filter and before they execute the program, beyond what is allowed for other reasons: take
// on user and capabilities, look at descriptors, and open the exec fifo by a safe /proc (runc 1.5: fstatfs, openat2, statx). Forefend lets it pass
// uncounted, so no run tells of it.
var runcInit = []string{"prctl", "capget", "chdir", "fchdir", "getcwd", "fstatfs", "openat2", "statx", "readlinkat", "umask", "setsid", "set_tid_address"}

// seccompProfile allows what runs did, what is so frequent that it is never counted, and what runc needs to start it. What containerd's
// default profile allows under conditions keeps them; what only runs speak for has none. A workload that is not sealed yet may also make the
// harmless calls of the default that no run made.
func seccompProfile(l Learned) ([]byte, error) {
	p := &l.Prediction
	if len(p.Seen) == 0 {
		return nil, fmt.Errorf("%s: no run's system calls were watched: %w", l.Image, ErrNothing)
	}
	why := func(name string) string {
		switch {
		case p.Seen[name] > 0 || slices.Contains(p.Hot, name):
			return "made by earlier runs"
		case seccomp.Indispensable(name) || recommend.AtStart(name) || slices.Contains(runcInit, name):
			return "needed to start any container"
		case seccomp.Classify(name) == seccomp.ClassHot:
			return "harmless and too frequent to be counted"
		case seccomp.Classify(name) == seccomp.ClassBenign && !p.Sealed:
			return "harmless, though no run made it: too few runs are known to refuse it"
		}
		return ""
	}
	base := seccomp.DefaultProfile(nil)
	out := profileJSON{Comment: l.seccompBasis(), DefaultAction: base.DefaultAction, DefaultErrno: base.DefaultErrnoRet, Architectures: base.Architectures}
	listed := make(map[string]bool)
	for _, rule := range base.Syscalls {
		groups := make(map[string][]string)
		for _, name := range rule.Names {
			reason := why(name)
			if reason == "" && rule.Action != specs.ActErrno {
				continue
			}
			listed[name] = true
			groups[reason] = append(groups[reason], name)
		}
		out.add(rule, groups)
	}
	beyond := make(map[string][]string)
	for name := range p.Seen {
		if !listed[name] {
			beyond["made by earlier runs, and not in containerd's default profile"] = append(beyond["made by earlier runs, and not in containerd's default profile"], name)
		}
	}
	out.add(specs.LinuxSyscall{Action: specs.ActAllow}, beyond)
	text, err := json.MarshalIndent(out, "", "  ")
	return append(text, '\n'), err
}

// add appends a rule for each group of names, in a stable order.
func (p *profileJSON) add(rule specs.LinuxSyscall, groups map[string][]string) {
	var reasons []string
	for reason := range groups {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		one := rule
		one.Names = slices.Sorted(slices.Values(groups[reason]))
		p.Syscalls = append(p.Syscalls, syscallJSON{reason, one})
	}
}

func (l Learned) seccompBasis() []string {
	p := &l.Prediction
	lines := append(l.basis(), fmt.Sprintf("Probability that the next run makes a call that none made: %s.", percent(p.Unseen)))
	if !p.Sealed {
		lines = append(lines, "Not sealed: that is more than the site allows for refusing what no run did. Calls that are harmless are allowed.")
	}
	return append(lines, "Made by "+strings.Join([]string{"forefend profile export --format oci-seccomp", plain(l.Image)}, " ")+".")
}
