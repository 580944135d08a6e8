package admit

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/workload"
)

type annotations = map[string]string

// site is one whose profile "trusted", for group default, grants keys; claims and guards are the site's own.
func site(guards []policy.Guard, claims []policy.Claim, grants ...policy.Key) policy.Site {
	return policy.Site{
		Guards: guards, Claims: claims,
		Profiles: []policy.Profile{{Name: "trusted", Groups: []string{"default"}, Grants: grants}},
	}
}

func atMost(k policy.Key, v policy.Value) policy.Guard {
	return policy.Guard{Key: k, Ceiling: &v, Source: "config.toml [guardrails]"}
}

func siteDefault(k policy.Key, v policy.Value) policy.Claim {
	return policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Default, Source: "config.toml [defaults]"}}
}

func predicts(k policy.Key, v policy.Value) policy.Claim {
	return policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Prediction, Source: "history", Reason: "seen"}}
}

func privileged(in Input) Input {
	in.Request.Facts.Privileged = true
	in.Request.Spec.Linux.MaskedPaths, in.Request.Spec.Linux.ReadonlyPaths = nil, nil
	return in
}

func withCapability(in Input, name string) Input {
	c := in.Request.Spec.Process.Capabilities
	c.Bounding, c.Effective, c.Permitted = append(c.Bounding, name), append(c.Effective, name), append(c.Permitted, name)
	return in
}

func at(in Input, s policy.Site) Input {
	in.Site = s
	return in
}

// want is a decided value, and who decided it from what source.
type want struct {
	key    policy.Key
	value  policy.Value
	author policy.Author
	source string
}

func TestDecidedValues(t *testing.T) {
	call := policy.KeySyscalls.Member
	capability := policy.KeyCapabilities.Member
	grantsPtrace := site(nil, nil, policy.KeySyscalls)
	for name, test := range map[string]struct {
		in   Input
		want []want
	}{
		"a first run without a profile": {asked(t, nil), []want{
			{policy.KeyMode, policy.ModeAdaptive, policy.Default, "forefend"},
			{policy.KeySeccomp, policy.Tight, policy.Default, "forefend"},
			{call("read"), policy.SyscallNative, policy.Default, "forefend"},
			{call("rmdir"), policy.SyscallWatch, policy.Default, "forefend"},
			{call("execve"), policy.SyscallWatch, policy.Default, "forefend"},
			{call("ptrace"), policy.SyscallDeny, policy.Default, "forefend"},
			{call("mount"), policy.SyscallDeny, policy.Default, "forefend"},
			{capability("CAP_CHOWN"), policy.Loose, policy.Request, "spec"},
			{policy.KeyNoNewPrivileges, policy.Tight, policy.Request, "spec"},
		}},
		"a granted capability speaks for a dangerous call": {withDefaultProfile(withCapability(asked(t, nil), "CAP_SYS_ADMIN")), []want{
			{call("mount"), policy.SyscallWatch, policy.Default, "forefend"},
			{call("init_module"), policy.SyscallDeny, policy.Guardrail, "requested seccomp profile"},
		}},
		"an annotation allows what its profile grants": {at(asked(t, annotations{"forefend.dev/syscalls.allow": "ptrace"}), grantsPtrace), []want{
			{call("ptrace"), policy.SyscallWatch, policy.Request, "annotation forefend.dev/syscalls.allow"},
		}},
		"an annotation allows nothing that is not granted": {asked(t, annotations{"forefend.dev/syscalls.allow": "mount"}), []want{
			{call("mount"), policy.SyscallDeny, policy.Default, "forefend"},
		}},
		"no annotation widens a requested profile": {at(withDefaultProfile(asked(t, annotations{"forefend.dev/syscalls.allow": "mount"})), grantsPtrace), []want{
			{call("mount"), policy.SyscallDeny, policy.Guardrail, "requested seccomp profile"},
		}},
		"an annotation may always tighten": {asked(t, annotations{"forefend.dev/syscalls.deny": "rmdir", "forefend.dev/capabilities.drop": "CHOWN"}), []want{
			{call("rmdir"), policy.SyscallDeny, policy.Request, "annotation forefend.dev/syscalls.deny"},
			{capability("CAP_CHOWN"), policy.Tight, policy.Request, "annotation forefend.dev/capabilities.drop"},
		}},
		"a guardrail dominates": {at(asked(t, nil), site([]policy.Guard{atMost(call("socket"), policy.SyscallDeny), atMost(policy.KeyPIDs, 100)}, nil)), []want{
			{call("socket"), policy.SyscallDeny, policy.Guardrail, "config.toml [guardrails]"},
			{policy.KeyPIDs, 100, policy.Guardrail, "config.toml [guardrails]"},
		}},
		"history opens a learned call": {learned(withDefaultProfile(asked(t, nil))), []want{
			{call("chmod"), policy.SyscallNative, policy.Prediction, "history image+command, 5 runs"},
			{policy.KeySealed, policy.Tight, policy.Prediction, "history image+command, 5 runs"},
		}},
		"adaptive lets a sealed workload's benign surprise pass": {learned(withDefaultProfile(asked(t, nil))), []want{
			{call("rename"), policy.SyscallWatch, policy.Default, "forefend"},
		}},
		"enforce and sealed denies a benign surprise": {
			learned(withDefaultProfile(asked(t, annotations{"forefend.dev/mode": "enforce"}))), []want{
				{policy.KeyMode, policy.ModeEnforce, policy.Request, "annotation forefend.dev/mode"},
				{call("rename"), policy.SyscallDeny, policy.Default, "forefend"},
				{call("read"), policy.SyscallNative, policy.Default, "forefend"},
				{call("chmod"), policy.SyscallNative, policy.Prediction, "history image+command, 5 runs"},
			}},
		"enforce without a seal learns": {asked(t, annotations{"forefend.dev/mode": "enforce"}), []want{
			{call("rmdir"), policy.SyscallWatch, policy.Default, "forefend"},
		}},
		"the site's mode": {at(asked(t, nil), site(nil, []policy.Claim{siteDefault(policy.KeyMode, policy.ModeEnforce)})), []want{
			{policy.KeyMode, policy.ModeEnforce, policy.Default, "config.toml [defaults]"},
		}},
		"the profile's mode replaces the site's": {at(asked(t, nil), policy.Site{
			Claims:   []policy.Claim{siteDefault(policy.KeyMode, policy.ModeEnforce)},
			Profiles: []policy.Profile{{Name: "lab", Groups: []string{"*"}, Claims: []policy.Claim{siteDefault(policy.KeyMode, policy.ModeObserve)}}},
		}), []want{{policy.KeyMode, policy.ModeObserve, policy.Default, "config.toml [defaults]"}}},
		"an annotation cannot loosen the mode": {asked(t, annotations{"forefend.dev/mode": "observe"}), []want{
			{policy.KeyMode, policy.ModeAdaptive, policy.Default, "forefend"},
		}},
		"a granted annotation can": {at(asked(t, annotations{"forefend.dev/mode": "observe"}), site(nil, nil, policy.KeyMode)), []want{
			{policy.KeyMode, policy.ModeObserve, policy.Request, "annotation forefend.dev/mode"},
		}},
		"an operator replaces all but guardrails": {func() Input {
			in := asked(t, annotations{"forefend.dev/pids": "10"})
			in.Operator = []policy.Claim{{Key: policy.KeyPIDs, Value: 77, Origin: policy.Origin{Author: policy.Operator, Source: "forefend set"}}}
			return in
		}(), []want{{policy.KeyPIDs, 77, policy.Operator, "forefend set"}}},
		"privileged as asked: resources only": {func() Input {
			in := privileged(at(asked(t, annotations{"forefend.dev/pids": "10"}), site(nil, []policy.Claim{siteDefault(policy.KeyNoNewPrivileges, policy.Tight)})))
			in.Request.Spec.Process.NoNewPrivileges = false
			in.Predicted = []policy.Claim{predicts(policy.KeyMemorySoft, 1<<20), predicts(policy.KeyReadonlyRoot, policy.Tight)}
			return in
		}(), []want{
			{policy.KeyPIDs, 10, policy.Request, "annotation forefend.dev/pids"},
			{policy.KeyMemorySoft, 1 << 20, policy.Prediction, "history"},
			{policy.KeyNoNewPrivileges, undecidedValue, 0, ""},
			{policy.KeyReadonlyRoot, undecidedValue, 0, ""},
			{policy.KeySeccomp, undecidedValue, 0, ""},
			{call("ptrace"), undecidedValue, 0, ""},
		}},
		"privileged and governed": {func() Input {
			in := privileged(withCapability(asked(t, nil), "CAP_SYS_PTRACE"))
			in.Privileged = Govern
			return in
		}(), []want{
			{call("ptrace"), policy.SyscallWatch, policy.Default, "forefend"},
			{call("mount"), policy.SyscallDeny, policy.Default, "forefend"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(t, test.in)
			for _, w := range test.want {
				f, ok := d.Effective.Lookup(w.key)
				switch {
				case w.value == undecidedValue && ok:
					t.Errorf("%s is %s by %s, %s", w.key, w.key.Format(f.Value), f.Author, f.Source)
				case w.value == undecidedValue:
				case !ok:
					t.Errorf("%s is undecided", w.key)
				case f.Value != w.value || f.Author != w.author || f.Source != w.source:
					t.Errorf("%s is %s by %s, %s; want %s by %s, %s", w.key, w.key.Format(f.Value), f.Author, f.Source,
						w.key.Format(w.value), w.author, w.source)
				}
			}
			everyFieldExplained(t, d)
		})
	}
}

const undecidedValue policy.Value = -1

func everyFieldExplained(t interface{ Errorf(string, ...any) }, d api.Decision) {
	for _, f := range d.Effective.Fields {
		if !f.NoValue && f.Source == "" {
			t.Errorf("%s %v has no source", f.Key, f.Names)
		}
		if f.NoValue && len(f.Lost) == 0 {
			t.Errorf("%s %v decides nothing and says nothing", f.Key, f.Names)
		}
		for _, l := range f.Lost {
			if l.Source == "" || l.Why == "" {
				t.Errorf("%s %v: a loser without source or reason: %+v", f.Key, f.Names, l)
			}
		}
	}
}

// What becomes of a dangerous call says why, so that explain can.
func TestReasonsOfDangerousCalls(t *testing.T) {
	reason := func(in Input, name string) string {
		f, _ := decide(t, in).Effective.Lookup(policy.KeySyscalls.Member(name))
		return f.Reason
	}
	if got := reason(withDefaultProfile(withCapability(asked(t, nil), "CAP_SYS_PTRACE")), "kcmp"); got != "dangerous, but the granted CAP_SYS_PTRACE speaks for it" {
		t.Errorf("granted by capability: %q", got)
	}
	if got := reason(asked(t, nil), "bpf"); got != "dangerous, and not in Forefend's default profile" {
		t.Errorf("outside the default profile: %q", got)
	}
	in := asked(t, nil)
	in.Request.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	if got := reason(in, "bpf"); got != "dangerous, but the requested profile, which allows what it does not name, speaks for it" {
		t.Errorf("in a profile that allows all: %q", got)
	}
	refused := decide(t, asked(t, annotations{"forefend.dev/syscalls.allow": "bpf"}))
	f, _ := refused.Effective.Lookup(policy.KeySyscalls.Member("bpf"))
	if len(f.Lost) != 1 || !strings.Contains(f.Lost[0].Why, `profile "default" grants no loosening of syscalls/bpf`) {
		t.Errorf("an ungranted annotation: %+v", f.Lost)
	}
}

// A requested profile that refuses by name leaves the rest to the container on purpose.
func TestProfileThatRefusesByNameSpeaksForTheRest(t *testing.T) {
	in := asked(t, nil)
	in.Request.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"chmod"}, Action: specs.ActErrno},
	}}
	d := decide(t, in)
	for name, want := range map[string]policy.Value{"unshare": policy.SyscallWatch, "ptrace": policy.SyscallWatch, "chmod": policy.SyscallDeny} {
		if f, _ := d.Effective.Lookup(policy.KeySyscalls.Member(name)); f.Value != want {
			t.Errorf("%s: %+v, want %d", name, f, want)
		}
	}
}

// Nothing but guardrails is denied in observe mode; what would have been is recorded.
func TestObserveDeniesNothing(t *testing.T) {
	observe := site([]policy.Guard{atMost(policy.KeySyscalls.Member("bpf"), policy.SyscallDeny)}, []policy.Claim{siteDefault(policy.KeyMode, policy.ModeObserve)})
	d := decide(t, at(asked(t, nil), observe))
	table := tableOf(t, d)
	for _, name := range seccomp.Names() {
		want := name != "bpf"
		// clone3 hides its flags, so it answers ENOSYS wherever a C library may fall back to clone.
		if got := passes(t, d.Seccomp, table, name, [6]uint64{}); got != want && name != "clone3" {
			t.Errorf("%s passes: %v", name, got)
		}
	}
	f, ok := d.Effective.Lookup(policy.KeySyscalls.Member("ptrace"))
	if ok {
		t.Errorf("ptrace is decided: %+v", f)
	}
	i := slices.IndexFunc(d.Effective.Fields, func(f policy.Field) bool { return slices.Contains(f.Names, "ptrace") })
	if i < 0 || d.Effective.Fields[i].Lost[0].Value != policy.SyscallDeny {
		t.Errorf("what would have become of ptrace is not recorded")
	}
	if !slices.ContainsFunc(d.Notes, func(n string) bool { return strings.Contains(n, "observe mode") }) {
		t.Errorf("notes: %q", d.Notes)
	}
}

func TestWithoutProfileForefendsDefaultApplies(t *testing.T) {
	in := asked(t, nil)
	d := decide(t, in)
	if !slices.ContainsFunc(d.Notes, func(n string) bool { return strings.Contains(n, "Forefend's default applies") }) {
		t.Errorf("notes: %q", d.Notes)
	}
	if d.Seccomp.ListenerPath != in.Request.ListenerPath || d.Seccomp.ListenerMetadata != "default/web-1" {
		t.Errorf("listener %q for %q", d.Seccomp.ListenerPath, d.Seccomp.ListenerMetadata)
	}
	neverWider(t, seccomp.DefaultProfile(&in.Request.Spec), d)
}

// What an annotation was granted beyond Forefend's default profile is really allowed, and nothing else.
func TestGrantedCallIsAddedToForefendsProfile(t *testing.T) {
	in := at(asked(t, annotations{"forefend.dev/syscalls.allow": "acct"}), site(nil, nil, policy.KeySyscalls))
	d := decide(t, in)
	table := tableOf(t, d)
	if !passes(t, d.Seccomp, table, "acct", [6]uint64{}) {
		t.Error("acct is still denied")
	}
	wider := seccomp.DefaultProfile(&in.Request.Spec)
	wider.Syscalls = append(wider.Syscalls, specs.LinuxSyscall{Names: []string{"acct"}, Action: specs.ActAllow})
	neverWider(t, wider, d)
}

func TestUnconfined(t *testing.T) {
	unconfined := annotations{"forefend.dev/seccomp": "unconfined"}
	if d := decide(t, asked(t, unconfined)); d.Seccomp == nil {
		t.Error("unconfined without a grant")
	}
	granted := site(nil, nil, policy.KeySeccomp)
	d := decide(t, at(asked(t, unconfined), granted))
	if d.Seccomp != nil || d.Table != nil || len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "unconfined as asked") {
		t.Errorf("granted: profile %v, notes %q", d.Seccomp, d.Notes)
	}
	// No grant lifts a guardrail.
	granted.Guards = []policy.Guard{atMost(policy.KeySyscalls.Member("bpf"), policy.SyscallDeny)}
	d = decide(t, at(asked(t, unconfined), granted))
	table := tableOf(t, d)
	for name, want := range map[string]bool{"bpf": false, "ptrace": true, "rmdir": true, "read": true} {
		if got := passes(t, d.Seccomp, table, name, [6]uint64{}); got != want {
			t.Errorf("unconfined under a guardrail: %s passes: %v", name, got)
		}
	}
}

// Who runs `nerdctl run --security-opt seccomp=unconfined` asks by name, and needs
// no grant; a site's guardrail still holds.
func TestUnconfinedByTheClient(t *testing.T) {
	in := asked(t, nil)
	in.Request.Facts.Unconfined = "nerdctl"
	d := decide(t, in)
	if d.Seccomp != nil || d.Table != nil {
		t.Error("a profile all the same")
	}
	if f, _ := d.Effective.Lookup(policy.KeySeccomp); f.Author != policy.Request || !strings.Contains(f.Reason, "nerdctl") {
		t.Errorf("%+v does not say who asked", f)
	}
	d = decide(t, at(in, policy.Site{Guards: []policy.Guard{atMost(policy.KeySeccomp, policy.Tight)}}))
	if d.Seccomp == nil {
		t.Error("a guardrail does not hold")
	}
}

// In CRI no profile means unconfined, and a container through it runs so, unless
// the site, the pod's annotations or the mode say otherwise.
func TestUnconfinedThroughCRI(t *testing.T) {
	in := asked(t, nil)
	in.Request.Facts.Unconfined = workload.ThroughCRI
	d := decide(t, in)
	if d.Seccomp != nil || d.Table != nil {
		t.Error("a profile all the same")
	}
	if f, _ := d.Effective.Lookup(policy.KeySeccomp); f.Author != policy.Default || !strings.Contains(f.Reason, "CRI") {
		t.Errorf("%+v does not say why", f)
	}
	annotated := func(name, value string) Input {
		in := asked(t, annotations{policy.Prefix + name: value})
		in.Request.Facts.Unconfined = workload.ThroughCRI
		return in
	}
	for name, in := range map[string]Input{
		"default":        at(in, policy.Site{Claims: []policy.Claim{siteDefault(policy.KeySeccomp, policy.Tight)}}),
		"guardrail":      at(in, policy.Site{Guards: []policy.Guard{atMost(policy.KeySeccomp, policy.Tight)}}),
		"annotation":     annotated("seccomp", "profile"),
		"enforce":        annotated("mode", "enforce"),
		"a call by name": annotated("syscalls.deny", "mkdir"),
	} {
		if d := decide(t, in); d.Seccomp == nil {
			t.Errorf("%s does not hold", name)
		}
	}
}

func TestPrivilegedNotes(t *testing.T) {
	in := privileged(asked(t, nil))
	d := decide(t, in)
	if !d.AsAsked || d.Seccomp != nil || len(d.Notes) == 0 || !strings.HasPrefix(d.Notes[0], "privileged: ") {
		t.Errorf("as asked %v, notes %q", d.AsAsked, d.Notes)
	}
	in.Privileged = Govern
	if d = decide(t, in); d.AsAsked || d.Seccomp == nil {
		t.Errorf("governed: as asked %v, profile %v", d.AsAsked, d.Seccomp)
	}
}

// A container has one listener: a profile that brings its own is left as it is.
func TestOwnListenerIsLeftAlone(t *testing.T) {
	in := asked(t, nil)
	in.Request.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: "/mine",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}},
	}
	d := decide(t, in)
	if d.Seccomp != nil || d.Table != nil || !slices.ContainsFunc(d.Notes, func(n string) bool { return strings.Contains(n, "listener of its own") }) {
		t.Errorf("profile %+v, notes %q", d.Seccomp, d.Notes)
	}
}

func TestRefusals(t *testing.T) {
	conditional := asked(t, nil)
	conditional.Request.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"socket"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 9, Op: specs.OpEqualTo}}},
	}}
	unnamed := asked(t, nil)
	unnamed.Request.ListenerPath = ""
	for name, test := range map[string]struct {
		in   Input
		says string
	}{
		"malformed annotation":   {asked(t, annotations{"forefend.dev/pids": "many"}), "forefend.dev/pids"},
		"unknown annotation":     {asked(t, annotations{"forefend.dev/pid": "1"}), "forefend.dev/pid"},
		"runc's own call denied": {asked(t, annotations{"forefend.dev/syscalls.deny": "write"}), "write"},
		"argument out of range":  {conditional, "index 9"},
		"no listener":            {unnamed, "socket"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Decide(test.in)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("%v", err)
			}
			if d.Seccomp != nil || d.Table != nil {
				t.Error("half a policy")
			}
		})
	}
}

// A decision depends on its input alone: not on the order of claims, nor on what was compiled before.
func TestDeterminism(t *testing.T) {
	inputs := map[string]Input{
		"first run": asked(t, annotations{"forefend.dev/syscalls.deny": "rmdir,chroot", "forefend.dev/memory": "64Mi"}),
		"given":     withDefaultProfile(asked(t, nil)),
		"learned":   learned(withDefaultProfile(asked(t, nil))),
		"observe":   at(asked(t, nil), site(nil, []policy.Claim{siteDefault(policy.KeyMode, policy.ModeObserve)})),
	}
	compiler := &Compiler{}
	for range 2 { // the second time everything is remembered
		for name, in := range inputs {
			want := encoded(t, decide(t, in))
			slices.Reverse(in.Predicted)
			in.Compiler = compiler
			if got := encoded(t, decide(t, in)); !bytes.Equal(got, want) {
				t.Errorf("%s: decided differently:\n%s\n%s", name, want, got)
			}
			slices.Reverse(in.Predicted)
		}
	}
}

func encoded(t testing.TB, d api.Decision) []byte {
	t.Helper()
	body, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestDecisionCarriesItsInput(t *testing.T) {
	in := learned(asked(t, nil))
	in.Notes = []string{"the daemon could not be asked"}
	in.Sources = []api.Source{{Name: "history", Status: api.SourceOK}}
	in.Availability = api.ByLastKnown
	in.Site = site(nil, nil)
	d := decide(t, in)
	if d.Version != api.Version || d.Revision != 1 || !d.Time.Equal(clock) || d.Availability != api.ByLastKnown || d.Profile != "trusted" ||
		d.Prediction.Runs != 5 || len(d.Sources) != 1 || d.Notes[0] != in.Notes[0] || d.Facts.Run != in.Request.Facts.Run {
		t.Errorf("%+v", d)
	}
	in.Now = time.Time{}
	if d := decide(t, in); d.Time.IsZero() {
		t.Error("a decision without time")
	}
}

// What nobody decided is denied towards others only; who denies by name denies to everybody.
func TestReachingAmongOnesOwn(t *testing.T) {
	kin := func(in Input, name string) bool {
		t.Helper()
		nr, _ := seccomp.Number(name)
		answer := tableOf(t, decide(t, in)).Decide(int32(nr), auditArch(), &[6]uint64{})
		if answer.Verdict != seccomp.Deny {
			t.Errorf("%s: %+v", name, answer)
		}
		return answer.Kin
	}
	in := withDefaultProfile(asked(t, nil))
	if !kin(in, "ptrace") || kin(in, "bpf") {
		t.Error("the default is not as decided")
	}
	if kin(withDefaultProfile(asked(t, annotations{"forefend.dev/syscalls.deny": "ptrace"})), "ptrace") {
		t.Error("an annotation's denial has exceptions")
	}
	if kin(at(in, policy.Site{Guards: []policy.Guard{atMost(policy.KeySyscalls.Member("ptrace"), policy.SyscallDeny)}}), "ptrace") {
		t.Error("a guardrail has exceptions")
	}
	in.Request.Kin = false
	if kin(in, "ptrace") {
		t.Error("a shim that does not know such denials would refuse the table")
	}
}

// TestLabel: what a container says of its data is believed where its profile lets it loosen egress; else the decision says what it is good for.
func TestLabel(t *testing.T) {
	for name, c := range map[string]struct {
		annotations annotations
		grants      []policy.Key
		data, note  string
	}{
		"none":        {nil, []policy.Key{policy.KeyEgress}, "", ""},
		"granted":     {annotations{policy.AnnotationData: "Public"}, []policy.Key{policy.KeyEgress}, "public", ""},
		"not granted": {annotations{policy.AnnotationData: "public"}, []policy.Key{policy.KeyNetwork}, "", `= public can only raise what egress rules demand: profile "trusted" grants`},
	} {
		d, err := Decide(at(asked(t, c.annotations), site(nil, nil, c.grants...)))
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(d.Notes, "\n"); d.Data != c.data || strings.Contains(notes, policy.AnnotationData) != (c.note != "") || !strings.Contains(notes, c.note) {
			t.Errorf("%s: data %q, notes %q", name, d.Data, notes)
		}
	}
	if _, err := Decide(asked(t, annotations{policy.AnnotationData: "a b"})); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a label that is none: %v", err)
	}
}
