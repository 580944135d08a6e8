package admit

import (
	"maps"
	"slices"
	"testing"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

// served has five runs that served: they executed programs, changed owners and users, and mounted before that.
func served(in Input) Input {
	in.Prediction = workload.Prediction{
		Runs: 5, Level: "image+command", Unseen: 0.15, Seen: map[string]int{"execve": 5, "chown": 5, "setuid": 5, "mount": 5, "connect": 5, "listen": 5},
		Phases: &workload.Phases{
			Runs: 5, Unseen: 0.15, Known: true, Serving: []string{"connect"}, Start: []string{"chown", "execve", "listen", "mount", "setuid"},
			Stops: 5, Stop: []string{"execve"},
		},
	}
	return in
}

func TestServing(t *testing.T) {
	enforce := map[string]string{policy.Prefix + "mode": "enforce"}
	footholds := []string{"chroot", "execve", "execveat", "fanotify_mark", "listen", "memfd_secret", "mknod", "mknodat", "name_to_handle_at", "personality"}
	for name, c := range map[string]struct {
		in   Input
		want []string
	}{
		"adaptive":       {served(asked(t, nil)), append(slices.Clone(footholds), "mount")},
		"enforce":        {served(asked(t, enforce)), append(slices.Clone(footholds), "mount", "chown", "setuid")},
		"nobody serves":  {asked(t, nil), nil},
		"too few served": {served(asked(t, nil)), nil},
		"denied more":    {served(asked(t, map[string]string{policy.Prefix + "serving.deny": "connect"})), append(slices.Clone(footholds), "mount", "connect")},
		"not granted":    {served(asked(t, map[string]string{policy.Prefix + "serving.allow": "execve"})), append(slices.Clone(footholds), "mount")},
		"asked for": {func() Input { // in the spec's own words, whose default is to watch it before
			in := served(asked(t, map[string]string{policy.Prefix + "syscalls.allow": "execve"}))
			in.Site.Profiles = []policy.Profile{{Name: "all", Users: []string{"*"}, Grants: []policy.Key{policy.KeySyscalls}}}
			return in
		}(), slices.DeleteFunc(append(slices.Clone(footholds), "mount"), func(s string) bool { return s == "execve" })},
	} {
		if name == "too few served" {
			phases := *c.in.Prediction.Phases
			phases.Known = false
			c.in.Prediction.Phases = &phases
		}
		c.in.Request.Spec.Process.Capabilities.Bounding = append(c.in.Request.Spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") // speaks for mount
		d := decide(t, c.in)
		got := ServingVerdicts(d.Effective)
		slices.Sort(c.want)
		// What is denied before serving already need not be denied once more.
		want := slices.DeleteFunc(c.want, func(n string) bool {
			return d.Effective.Value(policy.KeySyscalls.Member(n), policy.SyscallWatch) < policy.SyscallWatch
		})
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
			t.Errorf("%s: %v, want %v", name, names, want)
		}
		for _, v := range got {
			if v != seccomp.Deny {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

func TestStopping(t *testing.T) {
	d := decide(t, served(asked(t, map[string]string{policy.Prefix + "serving.deny": "connect"})))
	all := ServingVerdicts(d.Effective)
	left := StoppingVerdicts(d.Effective, d.Prediction.Phases)
	if _, denied := left["execve"]; denied || len(left) != len(all)-1 {
		t.Errorf("%v of %v: earlier runs executed programs when they were told to end", left, all)
	}
	few := *d.Prediction.Phases
	few.Stops = stopsEnough - 1
	for _, p := range []*workload.Phases{&few, nil} {
		if left := StoppingVerdicts(d.Effective, p); len(left) != 1 || left["connect"] != seccomp.Deny {
			t.Errorf("%v: only what was asked for stays where too little is known", left)
		}
	}
}
