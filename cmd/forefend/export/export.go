// Package export says what was learned of a workload in forms that others read: an OCI seccomp profile, policies of Kubernetes and Cilium,
// requests and limits (docs/exports.md). Each says from how many runs it follows and how likely the next one departs from it.
//
// It is pure: values in, text out.
package export

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// Learned is what an export is made from.
type Learned struct {
	Image      string
	Args       []string // what it runs
	Prediction workload.Prediction
	Now        time.Time
}

// Form is one form of an export.
type Form struct {
	Name  string
	About string
	write func(Learned) ([]byte, error)
}

// Forms are all of them.
var Forms = []Form{
	{"oci-seccomp", "a seccomp profile for runc, crun, ctr, nerdctl, Docker, Kubernetes", seccompProfile},
	{"networkpolicy", "a Kubernetes NetworkPolicy of its outbound connections", networkPolicy},
	{"cilium", "a CiliumNetworkPolicy of its outbound connections", ciliumPolicy},
	{"resources", "requests and limits of a Kubernetes container, and flags of nerdctl run", resources},
}

// Names lists the forms for people.
func Names() string {
	var names []string
	for _, f := range Forms {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// ErrNothing says that no run of the workload's own is known: what others did is no policy for it.
var ErrNothing = errors.New("nothing was learned of it yet: run it under Forefend first")

// Write makes an export. The form is one of Names.
func Write(form string, l Learned) ([]byte, error) {
	i := slices.IndexFunc(Forms, func(f Form) bool { return f.Name == form })
	if i < 0 {
		return nil, fmt.Errorf("there is no form %.40q: one of %s", form, Names())
	}
	if l.Prediction.Runs == 0 || !own(l.Prediction.Level) {
		return nil, fmt.Errorf("%s: %w", l.Image, ErrNothing)
	}
	return Forms[i].write(l)
}

// own tells whether a history is that of the workload, or of the same code.
func own(level string) bool {
	return slices.Contains([]string{workload.LevelDigestCommand.String(), workload.LevelRepositoryCommand.String(), workload.LevelExecutable.String()}, level)
}

// basis says from what an export follows, in lines.
func (l Learned) basis() []string {
	p := &l.Prediction
	lines := []string{
		"Learned by Forefend, " + l.Now.UTC().Format(time.RFC3339) + ".",
		"Image: " + plain(l.Image),
	}
	if len(l.Args) > 0 {
		lines = append(lines, "Command: "+plain(strings.Join(l.Args, " ")))
	}
	return append(lines, fmt.Sprintf("From %s with the same %s.", plural(p.Runs, "run"), p.Level))
}

// plain keeps a text to one line of bounded length.
func plain(s string) string {
	const most = 200
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.TrimSpace(s)
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// percent spells a probability.
func percent(p float64) string { return fmt.Sprintf("%.2g %%", 100*p) }

// name is what an object of Kubernetes may be called that is about the image: a DNS label.
func (l Learned) name() string {
	repository, _, _ := strings.Cut(l.Image, "@")
	repository = repository[strings.LastIndexByte(repository, '/')+1:]
	repository, _, _ = strings.Cut(repository, ":")
	label := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, repository), "-")
	return cmp.Or(strings.Trim(label[:min(len(label), 50)], "-"), "workload")
}
