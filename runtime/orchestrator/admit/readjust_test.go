package admit

import (
	"reflect"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

func resources(memory, pids int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}}
}

func readjust(t *testing.T, before api.Decision, r *specs.LinuxResources, s policy.Site) api.Decision {
	t.Helper()
	d, err := Readjust(before, r, s, false)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func checkLimit(t *testing.T, d api.Decision, w want) {
	t.Helper()
	f, ok := d.Effective.Lookup(w.key)
	if !ok || f.Value != w.value || f.Author != w.author || f.Source != w.source {
		t.Errorf("%s is %s by %s, %s; want %s by %s, %s", w.key, w.key.Format(f.Value), f.Author, f.Source, w.key.Format(w.value), w.author, w.source)
	}
}

func TestUpdateReplacesTheSpec(t *testing.T) {
	in := asked(t, nil)
	in.Request.Spec.Linux.Resources = resources(64<<20, 100)
	before := decide(t, in)
	after := readjust(t, before, resources(128<<20, 100), in.Site)
	checkLimit(t, after, want{policy.KeyMemory, 128 << 20, policy.Request, "update"})
	checkLimit(t, after, want{policy.KeyPIDs, 100, policy.Request, "spec"}) // repeated, not changed
	if after.Revision != 2 || before.Revision != 1 {
		t.Errorf("revisions %d and %d", before.Revision, after.Revision)
	}
	checkLimit(t, before, want{policy.KeyMemory, 64 << 20, policy.Request, "spec"})
	// A later update forgets the earlier one, not the rest.
	third := readjust(t, after, resources(32<<20, 200), in.Site)
	checkLimit(t, third, want{policy.KeyMemory, 32 << 20, policy.Request, "update"})
	checkLimit(t, third, want{policy.KeyPIDs, 200, policy.Request, "update"})
	for _, f := range third.Effective.Fields {
		if f.Key == policy.KeyMemory && len(f.Lost) > 0 {
			t.Errorf("what was asked before still speaks: %+v", f.Lost)
		}
	}
}

// Rates of disks are members of a family, and an update changes them like any limit; resource limits it cannot.
func TestUpdateChangesRates(t *testing.T) {
	disk := func(rate uint64) *specs.LinuxResources {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major = 8
		return &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}}}
	}
	in := asked(t, nil)
	in.Request.Spec.Linux.Resources = disk(1 << 20)
	before := decide(t, in)
	checkLimit(t, before, want{"io.read/8:0", 1 << 20, policy.Request, "spec"})
	after := readjust(t, before, disk(2<<20), in.Site)
	checkLimit(t, after, want{"io.read/8:0", 2 << 20, policy.Request, "update"})
	checkLimit(t, after, want{policy.KeyRlimits.Member("RLIMIT_NOFILE"), 1024, policy.Request, "spec"})
	if f, ok := readjust(t, after, &specs.LinuxResources{}, in.Site).Effective.Lookup("io.read/8:0"); ok {
		t.Errorf("what nobody asks for any more is %+v", f)
	}
}

func TestUpdateIsOneVoiceAmongOthers(t *testing.T) {
	in := learned(asked(t, annotations{"forefend.dev/memory": "64Mi"}))
	in.Site = site([]policy.Guard{atMost(policy.KeyPIDs, 500)}, []policy.Claim{siteDefault(policy.KeyCPUs, 2000)})
	in.Operator = []policy.Claim{{Key: policy.KeyCPUShares, Value: 512, Origin: policy.Origin{Author: policy.Operator, Source: "forefend set"}}}
	before := decide(t, in)
	after := readjust(t, before, resources(1<<30, 9999), in.Site)
	checkLimit(t, after, want{policy.KeyMemory, 64 << 20, policy.Request, "annotation forefend.dev/memory"})
	checkLimit(t, after, want{policy.KeyPIDs, 500, policy.Guardrail, "config.toml [guardrails]"})
	checkLimit(t, after, want{policy.KeyMemorySoft, 64 << 20, policy.Prediction, "history image+command, 5 runs"})
	checkLimit(t, after, want{policy.KeyCPUs, 2000, policy.Default, "config.toml [defaults]"})
	checkLimit(t, after, want{policy.KeyCPUShares, 512, policy.Operator, "forefend set"})
	checkLimit(t, after, want{policy.KeyRlimits.Member("RLIMIT_NOFILE"), 1024, policy.Request, "spec"})
	everyFieldExplained(t, after)
}

// Repeating an update changes nothing but the revision, and no update touches anything but resources.
func TestUpdateIsIdempotentAndKeepsItsRoom(t *testing.T) {
	in := learned(withDefaultProfile(asked(t, annotations{"forefend.dev/syscalls.deny": "rmdir", "forefend.dev/mode": "enforce"})))
	before := decide(t, in)
	once := readjust(t, before, resources(1<<30, 50), in.Site)
	twice := readjust(t, once, resources(1<<30, 50), in.Site)
	if !reflect.DeepEqual(once.Effective, twice.Effective) || twice.Revision != 3 {
		t.Errorf("revision %d:\n%+v\n%+v", twice.Revision, once.Effective, twice.Effective)
	}
	others := func(d api.Decision) (out []policy.Field) {
		for _, f := range d.Effective.Fields {
			if f.Key.Dimension() != policy.Resources {
				out = append(out, f)
			}
		}
		return out
	}
	if !reflect.DeepEqual(others(before), others(twice)) {
		t.Errorf("other dimensions changed:\n%+v\n%+v", others(before), others(twice))
	}
	if !reflect.DeepEqual(before.Seccomp, twice.Seccomp) || before.Facts.Run != twice.Facts.Run || !before.Time.Equal(twice.Time) {
		t.Error("more than the policy changed")
	}
	// Nothing asked at all: as decided.
	if same := readjust(t, before, in.Request.Spec.Linux.Resources, in.Site); !reflect.DeepEqual(same.Effective, before.Effective) {
		t.Errorf("an empty update changed the policy:\n%+v\n%+v", before.Effective, same.Effective)
	}
}

func TestUpdateOfADamagedDecision(t *testing.T) {
	before := decide(t, asked(t, nil))
	before.Facts.Annotations = annotations{"forefend.dev/cpus": "x"}
	if _, err := Readjust(before, resources(1, 1), policy.Site{}, false); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := Readjust(api.Decision{}, nil, policy.Site{}, true); err != nil {
		t.Error(err)
	}
}

// In observe mode an update takes part, and what a prediction says is still only recorded.
func TestUpdateInObserveMode(t *testing.T) {
	in := learned(asked(t, nil))
	in.Site = site(nil, []policy.Claim{siteDefault(policy.KeyMode, policy.ModeObserve)})
	before := decide(t, in)
	after := readjust(t, before, resources(64<<20, 0), in.Site)
	checkLimit(t, after, want{policy.KeyMemory, 64 << 20, policy.Request, "update"})
	if v, ok := after.Effective.Limit(policy.KeyMemorySoft); ok {
		t.Errorf("the predicted soft limit of %d is applied", v)
	}
}
