package admit

import (
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// running is a container that was admitted with in.
type running struct {
	in Input
	d  api.Decision
}

func admitted(t testing.TB, in Input) *running {
	in.Compiler = &Compiler{}
	return &running{in: in, d: decide(t, in)}
}

// again is what the daemon knows of a running container: not what was predicted, nor the operator's claims.
func (r *running) again() Input {
	return Input{Request: r.in.Request, Site: r.in.Site, Now: clock, Compiler: r.in.Compiler}
}

func (r *running) change(t testing.TB, ch Change) {
	t.Helper()
	d, err := Adjust(r.again(), r.d, ch)
	if err != nil {
		t.Fatal(err)
	}
	r.d = d
}

func set(settings ...string) Change {
	ch := Change{Author: policy.Operator, Source: "forefend set", Set: make(map[string]string)}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		ch.Set[name] = value
	}
	return ch
}

func unset(names ...string) Change {
	return Change{Author: policy.Operator, Source: "forefend set", Unset: names}
}

func TestAdjust(t *testing.T) {
	r := admitted(t, learned(withDefaultProfile(asked(t, annotations{"forefend.dev/pids": "200"}))))
	first := r.d
	r.change(t, set("memory=64Mi", "syscalls.deny=mkdir"))
	checkLimit(t, r.d, want{policy.KeyMemory, 64 << 20, policy.Operator, "forefend set"})
	if f, _ := r.d.Effective.Lookup("syscalls/mkdir"); f.Value != policy.SyscallDeny || f.Revision != 2 || r.d.Revision != 2 || len(r.d.Table) == 0 || r.d.Seccomp != nil {
		t.Errorf("revision %d, %+v", r.d.Revision, f)
	}
	if got := r.d.Changes[0].Changed; len(got) != 2 || got[0] != "memory undecided -> 64 MiB" {
		t.Errorf("%q", got)
	}
	r.change(t, set("memory=64Mi")) // the same again
	if r.d.Revision != 2 {
		t.Errorf("revision %d of a change to nothing", r.d.Revision)
	}
	r.change(t, set("memory=32Mi"))
	r.change(t, unset("syscalls/mkdir"))
	r.change(t, Change{Author: policy.Operator, Rollback: 2})
	if v := r.d.Effective.Value(policy.KeyMemory, 0); v != 64<<20 || r.d.Effective.Value("syscalls/mkdir", 9) != policy.SyscallDeny {
		t.Errorf("rolled back to revision 2: memory %d", v)
	}
	r.change(t, Change{Author: policy.Operator, Reset: true})
	if !reflect.DeepEqual(r.d.Effective, first.Effective) || r.d.Revision != 6 {
		t.Errorf("reset, revision %d: %q", r.d.Revision, first.Effective.Diff(r.d.Effective, func(policy.Key) bool { return true }))
	}
}

// An update keeps what operators and the container itself have asked for, and the other way round.
func TestAdjustAndReadjust(t *testing.T) {
	r := admitted(t, learned(asked(t, nil)))
	r.change(t, set("pids=50"))
	r.change(t, Change{Author: policy.Request, Source: "application", Set: map[string]string{"memory": "32Mi"}})
	r.d = readjust(t, r.d, resources(128<<20, 100), r.in.Site)
	r.in.Request.Spec.Linux.Resources = resources(128<<20, 100) // as the shim's record has it
	checkLimit(t, r.d, want{policy.KeyPIDs, 50, policy.Operator, "forefend set"})
	checkLimit(t, r.d, want{policy.KeyMemory, 32 << 20, policy.Request, "application"})
	r.change(t, Change{Author: policy.Request, Source: "application", Set: map[string]string{"memory": "512Mi"}})
	checkLimit(t, r.d, want{policy.KeyMemory, 128 << 20, policy.Request, "update"}) // more needs a grant
	r.change(t, unset("pids"))
	checkLimit(t, r.d, want{policy.KeyPIDs, 100, policy.Request, "update"})
	everyFieldExplained(t, r.d)
}

// What Forefend predicts of a running container moves what it or a default decided, and nothing else.
func TestPredictionAdjusts(t *testing.T) {
	in := learned(withDefaultProfile(asked(t, annotations{"forefend.dev/syscalls.deny": "rmdir"})))
	in.Request.Spec.Linux.Resources = resources(256<<20, 0)
	in.Predicted = append(in.Predicted, predicts("syscalls/unlink", policy.SyscallDeny))
	r := admitted(t, in)
	first := r.d
	loop := Change{Author: policy.Prediction, Source: "drift", Set: map[string]string{"syscalls/unlink": "watch", "syscalls/rmdir": "watch", "memory": "1Gi", "memory.soft": "200Mi"}}
	r.change(t, loop)
	for k, v := range map[policy.Key]policy.Value{"syscalls/unlink": policy.SyscallWatch, "syscalls/rmdir": policy.SyscallDeny, policy.KeyMemory: 256 << 20, policy.KeyMemorySoft: 200 << 20} {
		if got := r.d.Effective.Value(k, 9); got != v {
			t.Errorf("%s is %s", k, k.Format(got))
		}
	}
	r.change(t, Change{Author: policy.Prediction, Source: "risk", Set: map[string]string{"syscalls/unlink": "deny"}})
	if v := r.d.Effective.Value("syscalls/unlink", 9); v != policy.SyscallDeny { // of two voices the tighter is heard
		t.Errorf("unlink is %d", v)
	}
	r.change(t, Change{Author: policy.Prediction, Source: "risk", Reset: true})
	r.change(t, Change{Author: policy.Prediction, Source: "drift", Reset: true})
	if d := first.Effective.Diff(r.d.Effective, func(policy.Key) bool { return true }); len(d) > 0 {
		t.Errorf("taken back: %q", d)
	}
}

// Without a shim that could raise it a predicted limit of memory is not heard, and no revision tells of it.
func TestPredictedMemoryNeedsAnAirbag(t *testing.T) {
	r := admitted(t, withDefaultProfile(asked(t, nil)))
	loop := Change{Author: policy.Prediction, Source: "drift", Set: map[string]string{"memory": "64Mi"}}
	after, err := Adjust(r.again(), r.d, loop)
	if err != nil || after.Revision != r.d.Revision {
		t.Errorf("revision %d after %d: %v", after.Revision, r.d.Revision, err)
	}
}

func TestAdjustRefusals(t *testing.T) {
	in := withDefaultProfile(asked(t, nil))
	in.Site = site([]policy.Guard{atMost(policy.KeyMemory, 256<<20)}, nil)
	r := admitted(t, in)
	for setting, c := range map[string]struct {
		is   func(error) bool
		says string
	}{
		"memory=1Gi":            {errdefs.IsFailedPrecondition, "memory: 1 GiB is not possible, config.toml [guardrails] holds it to 256 MiB"},
		"syscalls.allow=bpf":    {errdefs.IsFailedPrecondition, "create the container with a profile that allows it"},
		"syscalls.deny=nope":    {errdefs.IsInvalidArgument, "there is no system call nope"},
		"capabilities.add=NOPE": {errdefs.IsInvalidArgument, "there is no capability CAP_NOPE"},
		"rlimits/NOPE=5":        {errdefs.IsInvalidArgument, "there is no resource limit RLIMIT_NOPE"},
		"bogus=1":               {errdefs.IsInvalidArgument, "bogus: unknown; known are"},
		"syscalls.deny=execve":  {errdefs.IsInvalidArgument, "execve"},
	} {
		d, err := Adjust(r.again(), r.d, set(setting, "pids=5"))
		if setting == "syscalls.deny=execve" && err == nil {
			continue // runc's own handshake does not need the watched one
		}
		if !c.is(err) || !strings.Contains(err.Error(), c.says) || d.Revision != 0 {
			t.Errorf("%s: revision %d, %v", setting, d.Revision, err)
		}
	}
	both := set("syscalls.deny=mkdir")
	both.Set["syscalls/mkdir"] = "watch"
	for _, ch := range []Change{both, unset("bogus"), {Author: policy.Operator, Rollback: 1}, {Author: policy.Operator, Rollback: -1}} {
		if _, err := Adjust(r.again(), r.d, ch); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", ch, err)
		}
	}
}

func TestChangesAreBounded(t *testing.T) {
	r := admitted(t, asked(t, nil))
	for range maxChanges {
		r.change(t, set("pids=5"))
		r.change(t, set("pids=6"))
	}
	if n := len(r.d.Changes); n != maxChanges || r.d.Changes[n-1].Revision != r.d.Revision {
		t.Errorf("%d changes", n)
	}
	if _, err := Adjust(r.again(), r.d, Change{Author: policy.Operator, Rollback: 3}); err == nil || !strings.Contains(err.Error(), "too long ago") {
		t.Error(err)
	}
	r.change(t, Change{Author: policy.Operator, Rollback: r.d.Revision - 1})
	if v := r.d.Effective.Value(policy.KeyPIDs, 0); v != 5 {
		t.Errorf("pids %d", v)
	}
}

var settings = []string{
	"memory=64Mi", "memory=128Mi", "memory=unlimited", "memory.soft=32Mi", "pids=7", "cpus=0.5", "mode=enforce", "mode=observe", "sealed=yes", "sealed=no",
	"syscalls.deny=mkdir,ptrace", "syscalls.allow=mkdir", "syscalls/ptrace=watch", "syscalls/bpf=deny", "capabilities.drop=NET_RAW", "capabilities.add=NET_RAW",
	"network=off", "readonly_root=on", "masked_paths=/etc/x", "rlimits/NOFILE=77", "oom_score_adj=500", "seccomp=unconfined", "no_new_privileges=on",
}

// The laws of changes, whatever the site, the profile and the author: what is set and unset again was never there, the same
// change twice is one, no other key moves, guardrails and the requested profile hold, and a rollback restores each revision.
func TestAdjustLaws(t *testing.T) {
	base := asked(t, nil)
	compiler := &Compiler{}
	rapid.Check(t, func(rt *rapid.T) {
		in := base
		linux := *base.Request.Spec.Linux
		in.Request.Spec.Linux = &linux
		in = drawInput(rt, in)
		in.Operator, in.Compiler = nil, compiler
		d, err := Decide(in)
		if err != nil {
			return
		}
		r := &running{in: in, d: d}
		past := map[int]policy.Effective{1: d.Effective}
		author := rapid.SampledFrom([]policy.Author{policy.Operator, policy.Operator, policy.Request, policy.Prediction}).Draw(rt, "author")
		for range rapid.IntRange(1, 6).Draw(rt, "changes") {
			ch := set(rapid.SliceOfNDistinct(rapid.SampledFrom(settings), 1, 3, func(s string) string { n, _, _ := strings.Cut(s, "="); return n }).Draw(rt, "settings")...)
			ch.Author = author
			before := r.d
			after, err := Adjust(r.again(), before, ch)
			if err != nil {
				continue // a guardrail, an unknown call
			}
			if again, err := Adjust(r.again(), after, ch); err != nil || again.Revision != after.Revision {
				rt.Fatalf("the same again is revision %d after %d: %v", again.Revision, after.Revision, err)
			}
			alone := !slices.ContainsFunc(slices.Collect(maps.Keys(ch.Set)), func(s string) bool { return s == "mode" || s == "sealed" || s == "seccomp" })
			for _, line := range before.Effective.Diff(after.Effective, func(policy.Key) bool { return true }) {
				key, _, _ := strings.Cut(line, " ")
				if alone && !concerned(ch, policy.Key(key)) {
					rt.Fatalf("%v changed %s", ch.Set, line)
				}
			}
			if after.Revision > before.Revision {
				toldInBrief(rt, before, after)
			}
			guarded(rt, in.Site, after.Effective)
			if in.Request.Spec.Linux.Seccomp != nil && len(after.Table) > 0 {
				notWider(rt, in, after)
			}
			r.d, past[after.Revision] = after, after.Effective
		}
		revision := rapid.IntRange(1, r.d.Revision).Draw(rt, "revision")
		if revision == r.d.Revision {
			return
		}
		back, err := Adjust(r.again(), r.d, Change{Author: author, Source: "forefend set", Rollback: revision})
		if err != nil {
			rt.Fatal(err)
		}
		if diff := past[revision].Diff(back.Effective, func(policy.Key) bool { return true }); len(diff) > 0 {
			rt.Fatalf("rolled back to revision %d: %q", revision, diff)
		}
	})
}

// toldInBrief: what a shim makes of a brief decision is that decision.
func toldInBrief(t *rapid.T, before, after api.Decision) {
	brief, only := Brief(before, after)
	told := Unbrief(before, brief, only)
	same := told.Effective.Equal(after.Effective)
	if told.Effective = after.Effective; !same || !reflect.DeepEqual(told, after) {
		t.Fatalf("told in brief, of %v: %v, %+v, not %+v", only, same, told, after)
	}
}

// What a change does not touch is not merged again, and what it touches comes to what a merge of everything would make of it.
func TestMergeOfTouchedKeys(t *testing.T) {
	base := asked(t, nil)
	rapid.Check(t, func(rt *rapid.T) {
		in := base
		linux := *base.Request.Spec.Linux
		in.Request.Spec.Linux = &linux
		in = drawInput(rt, in)
		in.Request.Airbag = true
		in.Predicted = append(in.Predicted, predicts(policy.KeyMemory, 64<<20), predicts(policy.KeyEgressDefault, drawValue(rt)&1))
		in.Live = drawClaims(rt, policy.Request)
		in.Operator = append(in.Operator, drawClaims(rt, policy.Operator)...)
		whole, _, err := merge(in)
		if err != nil {
			return
		}
		all := unfolded(whole.Effective)
		in.only = make(map[policy.Key]bool)
		keys := slices.Sorted(maps.Keys(all))
		few := slices.DeleteFunc(slices.Clone(keys), func(k policy.Key) bool {
			return k.Dimension() != policy.Egress && k.Dimension() != policy.Resources && k.Dimension() != policy.Network
		})
		touched := append(rapid.SliceOfN(rapid.SampledFrom(few), 1, 5).Draw(rt, "touched"), rapid.SliceOfN(rapid.SampledFrom(keys), 0, 2).Draw(rt, "of calls too")...)
		for _, k := range append(touched, beside...) {
			in.only[k] = true
		}
		narrow, _, err := merge(in)
		if err != nil || !reflect.DeepEqual(narrow.Airbag, whole.Airbag) {
			rt.Fatalf("%v: airbag %+v, of everything %+v", err, narrow.Airbag, whole.Airbag)
		}
		some := unfolded(narrow.Effective)
		for k := range in.only {
			if !reflect.DeepEqual(some[k], all[k]) {
				rt.Fatalf("%s: %+v, of everything %+v", k, some[k], all[k])
			}
		}
	})
}

// A change that is not about system calls does not look at each of hundreds.
func TestAdjustLooksAtFewKeys(t *testing.T) {
	r := admitted(t, learned(withDefaultProfile(asked(t, nil))))
	var before, after runtime.MemStats
	const changes = 20
	runtime.ReadMemStats(&before)
	for range changes {
		if d, err := Adjust(r.again(), r.d, set("network=off")); err != nil || d.Revision != 2 {
			t.Errorf("revision %d, %v", d.Revision, err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / changes; each > 200<<10 {
		t.Errorf("it took %d bytes", each)
	}
}

// dependent are settings of which one decides what another comes to.
var dependent = []string{
	"memory=64Mi", "memory=unlimited", "memory.swap=80Mi", "mode=observe", "network=off", "egress.default=closed", "egress.feeds=block", "egress.block=192.0.2.1", "egress.allow=192.0.2.1",
}

// drawClaims are claims of some of them.
func drawClaims(t *rapid.T, by policy.Author) (claims []policy.Claim) {
	for _, s := range rapid.SliceOfN(rapid.SampledFrom(dependent), 0, 6).Draw(t, by.String()) {
		name, value, _ := strings.Cut(s, "=")
		parsed, err := policy.ParseSetting(name, value, policy.Origin{Author: by, Source: "test", Revision: 2})
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, parsed...)
	}
	return claims
}

// unfolded are the fields of single keys.
func unfolded(e policy.Effective) map[policy.Key]policy.Field {
	m := make(map[policy.Key]policy.Field)
	for _, f := range e.Fields {
		names := f.Names
		if f.Names = nil; names == nil {
			m[f.Key] = f
		}
		for _, name := range names {
			m[f.Key.Member(name)] = f
		}
	}
	return m
}

// concerned reports whether a change names a key, or a member of it.
func concerned(ch Change, k policy.Key) bool {
	for name, value := range ch.Set {
		claims, _ := policy.ParseSetting(name, value, policy.Origin{})
		if slices.ContainsFunc(claims, func(c policy.Claim) bool { return c.Key == k }) {
			return true
		}
	}
	return false
}

func guarded(rt *rapid.T, s policy.Site, e policy.Effective) {
	for _, g := range s.Guards {
		if v := e.Value(g.Key, 0); g.Ceiling != nil && v > *g.Ceiling {
			rt.Fatalf("%s is %s, over its ceiling", g.Key, g.Key.Format(v))
		}
	}
}

// notWider: no call that the requested profile never allows is let through.
func notWider(rt *rapid.T, in Input, d api.Decision) {
	var table seccomp.Table
	if err := table.UnmarshalBinary(d.Table); err != nil {
		rt.Fatal(err)
	}
	allowed := calls().allowedBy(in.Request.Spec.Linux.Seccomp)
	for i, c := range calls().list {
		if v, watched := table.Verdict(c.name); watched && v > seccomp.Deny && !allowed[i] {
			rt.Fatalf("%s is let through, the requested profile does not", c.name)
		}
	}
}

// A change of which nothing came into force makes no revision; one of which anything did makes one, with its results.
func TestSettled(t *testing.T) {
	r := admitted(t, learned(asked(t, nil)))
	before := r.d
	r.change(t, set("memory=64Mi", "pids=50"))
	result := func(status ...string) (out []api.Result) {
		for _, s := range status {
			out = append(out, api.Result{Lever: "resources", Status: s})
		}
		return out
	}
	undone := r.d
	undone.Effective = before.Effective
	for _, results := range [][]api.Result{result(api.ResultRefused), result(api.ResultFailed), result(api.ResultUnchanged, api.ResultFailed)} {
		if d := Settled(before, undone, results); !reflect.DeepEqual(d, before) {
			t.Errorf("%+v: revision %d", results, d.Revision)
		}
	}
	for what, d := range map[string]api.Decision{
		"applied in part":                 Settled(before, r.d, result(api.ResultApplied, api.ResultRefused)),
		"refused beside a claim":          Settled(before, r.d, result(api.ResultRefused)), // the same value, by another author
		"applied, and nothing is another": Settled(before, undone, result(api.ResultApplied)),
		"nothing to do":                   Settled(before, undone, nil),
	} {
		if d.Revision != 2 || len(d.Changes) != 1 {
			t.Errorf("%s: revision %d, %d changes", what, d.Revision, len(d.Changes))
		}
	}
	if d := Settled(before, r.d, result(api.ResultApplied)); len(d.Changes[0].Results) != 1 || r.d.Changes[0].Results != nil {
		t.Errorf("results %+v, of what was wanted %+v", d.Changes[0].Results, r.d.Changes[0].Results)
	}
	e := r.d.Changes[0].Attempt(r.d.Facts, 1)
	if e.Fields["revision"] != "1" || !strings.HasSuffix(e.Message, "revision 1 stays") || r.d.Changes[0].Revision != 2 {
		t.Errorf("%+v", e)
	}
}
