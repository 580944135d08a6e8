package rewrite

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"pgregory.net/rapid"

	"forefend.dev/forefend/runtime/policy"
)

// elsewhere are the keys no step applies, and who does.
var elsewhere = map[policy.Key]string{
	policy.KeyMode:    "runtime/policy.Merge, and runtime/seccomp when it compiles the profile",
	policy.KeySealed:  "runtime/seccomp when it compiles the profile",
	policy.KeyServing: "shim, which changes the table when the workload serves",
	policy.KeyExec:    "shim, which refuses an exec (Permitted)",
	policy.KeyAgent:   "agent/host, which injects the agent or does not",

	policy.KeyEgressDefault: "shim, by the container's gate",
	policy.KeyEgressFeeds:   "shim, by the container's gate",
	policy.KeyEgress:        "shim, by the container's gate",
}

func TestEveryKeyIsAppliedOnce(t *testing.T) {
	by := make(map[policy.Key]string)
	for _, s := range steps {
		for _, k := range s.keys {
			if by[k] != "" {
				t.Errorf("%s is applied by %s and %s", k, by[k], s.name)
			}
			by[k] = s.name
		}
	}
	for _, k := range policy.Keys() {
		if (by[k] == "") == (elsewhere[k] == "") {
			t.Errorf("%s: step %q, elsewhere %q: want exactly one", k, by[k], elsewhere[k])
		}
		delete(by, k)
	}
	if len(by) > 0 {
		t.Errorf("steps apply what is not a policy key: %v", by)
	}
}

// TestIdentity is the law of the package: the claims of a spec, merged, change
// nothing in it.
func TestIdentity(t *testing.T) {
	for name := range corpus(t) {
		for _, unified := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/unified=%t", name, unified), func(t *testing.T) {
				want, got := corpus(t)[name], corpus(t)[name]
				eff := policy.Merge(policy.Input{Claims: Claims(got, unified)})
				if err := Apply(got, Input{Effective: eff, Unified: unified}); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got %s\nwant %s", text(t, got), text(t, want))
				}
			})
		}
	}
}

// TestLaws holds for any claims on any spec: applying twice is applying once, the
// result is never looser than the policy, and nothing the policy does not govern changes.
func TestLaws(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := corpus(t)
		names := make([]string, 0, len(all))
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		spec := all[rapid.SampledFrom(names).Draw(rt, "spec")]
		unified := rapid.Bool().Draw(rt, "unified")
		claims := append(Claims(spec, unified), anyClaims(rt)...)
		in := Input{Effective: policy.Merge(policy.Input{Claims: claims, Guards: anyGuards(rt)}), Unified: unified}
		env := slices.Clone(spec.Process.Env)
		err := Apply(spec, in)
		var netErr *NetworkError
		if errors.As(err, &netErr) {
			return
		}
		if err != nil {
			rt.Fatal(err)
		}
		once := text(t, spec)
		looser(rt, in.Effective, said(Claims(spec, unified)))
		if err := Apply(spec, in); err != nil || text(t, spec) != once {
			rt.Fatalf("second pass, error %v:\n got %s\nwant %s", err, text(t, spec), once)
		}
		if !slices.Equal(env, spec.Process.Env) {
			rt.Fatal("environment changed")
		}
	})
}

// looser reports what the rewritten spec says that the policy is tighter about.
// memory.swap may be raised to a memory limit of a stronger or equal author, and a CPU
// weight has a least value.
func looser(rt *rapid.T, eff policy.Effective, got map[policy.Key]policy.Value) {
	for _, f := range eff.Fields {
		keys := []policy.Key{f.Key}
		if len(f.Names) > 0 {
			keys = nil
		}
		for _, name := range f.Names {
			keys = append(keys, f.Key.Member(name))
		}
		for _, k := range keys {
			want, decided := eff.Lookup(k)
			v, claimed := got[k]
			if !decided || k == policy.KeyMemorySwap && !stronger(eff, policy.KeyMemorySwap, policy.KeyMemory) {
				continue
			}
			counted := k.Dimension() == policy.Resources
			if claimed && v > want.Value || counted && !claimed && want.Value != policy.Unlimited {
				rt.Fatalf("%s: the spec says %d (%t), the policy %d", k, v, claimed, want.Value)
			}
		}
	}
}

var anyKeys = []policy.Key{policy.KeyMemory, policy.KeyMemorySoft, policy.KeyMemorySwap, policy.KeyCPUs, policy.KeyCPUShares,
	policy.KeyPIDs, policy.KeyIOWeight, "io.read/8:0", "io.write/8:0", "io.write/254:16", "rlimits/RLIMIT_NOFILE", "rlimits/RLIMIT_CORE", "capabilities/CAP_NET_RAW", "capabilities/CAP_BPF",
	policy.KeyNoNewPrivileges, policy.KeyReadonlyRoot, "masked_paths//proc/kcore", "masked_paths//x",
	"readonly_paths//proc/sys", "readonly_paths//x", policy.KeyNetwork}

func anyValue(rt *rapid.T, k policy.Key) policy.Value {
	if k.Dimension() != policy.Resources {
		return policy.Value(rapid.Int64Range(0, 1).Draw(rt, "switch"))
	}
	v := rapid.OneOf(rapid.Int64Range(2, 1<<40), rapid.Just(int64(policy.Unlimited))).Draw(rt, "value")
	if k == policy.KeyCPUShares {
		v = min(v, mostShares)
	}
	if k == policy.KeyIOWeight && v != int64(policy.Unlimited) {
		v = max(leastIOWeight, min(v, mostIOWeight))
	}
	return policy.Value(v)
}

func anyClaims(rt *rapid.T) []policy.Claim {
	return rapid.SliceOf(rapid.Custom(func(rt *rapid.T) policy.Claim {
		k := rapid.SampledFrom(anyKeys).Draw(rt, "key")
		return policy.Claim{Key: k, Value: anyValue(rt, k), Origin: policy.Origin{
			Author: policy.Author(rapid.IntRange(0, int(policy.Operator)).Draw(rt, "author")), Source: "rapid"}}
	})).Draw(rt, "claims")
}

func anyGuards(rt *rapid.T) []policy.Guard {
	return rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) policy.Guard {
		k := rapid.SampledFrom(anyKeys).Draw(rt, "guarded key")
		v := anyValue(rt, k)
		return policy.Guard{Key: k, Ceiling: &v, Source: "rapid"}
	}), 0, 4).Draw(rt, "guards")
}

func TestApplyErrors(t *testing.T) {
	for name, c := range map[string]struct {
		policy map[string]string
		spec   string
		is     func(error) bool
	}{
		"unknown capability":     {map[string]string{"capabilities/CAP_ALL": "dropped"}, `{}`, errdefs.IsInvalidArgument},
		"no disk":                {map[string]string{"io.read/sda": "10Mi"}, `{}`, errdefs.IsInvalidArgument},
		"unknown rlimit":         {map[string]string{"rlimits/RLIMIT_NFILE": "7"}, `{}`, errdefs.IsInvalidArgument},
		"mask without mount ns":  {map[string]string{"masked_paths//x": "masked"}, `{}`, errdefs.IsFailedPrecondition},
		"ro path, no mount ns":   {map[string]string{"readonly_paths//x": "readonly"}, `{"linux":{}}`, errdefs.IsFailedPrecondition},
		"network off, host":      {map[string]string{"network": "off"}, `{}`, isNetwork},
		"network off, host (ns)": {map[string]string{"network": "off"}, `{"linux":{"namespaces":[{"type":"pid"}]}}`, isNetwork},
		"network off, proc": {map[string]string{"network": "off"},
			`{"linux":{"namespaces":[{"type":"network","path":"/proc/7/ns/net"}]}}`, isNetwork},
		"network off, pod": {map[string]string{"network": "off"},
			`{"annotations":{"io.kubernetes.cri.sandbox-id":"x"},"linux":{"namespaces":[{"type":"network","path":"/run/netns/c"}]}}`, isNetwork},
		"network off, CRI-O pod": {map[string]string{"network": "off"},
			`{"annotations":{"io.kubernetes.cri-o.SandboxID":"x"},"linux":{"namespaces":[{"type":"network","path":"/run/netns/c"}]}}`, isNetwork},
		"network off, nerdctl": {map[string]string{"network": "off"},
			`{"annotations":{"nerdctl/networks":"[\"bridge\"]"},"linux":{"namespaces":[{"type":"network"}]}}`, isNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			in := Input{Effective: decided(t, c.policy)}
			err := Apply(parse[specs.Spec](t, c.spec), in)
			if err == nil || !c.is(err) {
				t.Errorf("got %v", err)
			}
			in.Privileged = true
			if err := Apply(parse[specs.Spec](t, c.spec), in); err != nil {
				t.Errorf("privileged, left as asked: %v", err)
			}
		})
	}
}

func isNetwork(err error) bool {
	var n *NetworkError
	return errors.As(err, &n) && n.Why != "" && errdefs.IsFailedPrecondition(err)
}

// TestApplyToNothing: a spec runc would refuse is not made into one it accepts.
func TestApplyToNothing(t *testing.T) {
	spec := new(specs.Spec)
	in := Input{Effective: decided(t, map[string]string{"readonly_root": "on", "no_new_privileges": "on",
		"rlimits/RLIMIT_CORE": "0", "capabilities/CAP_KILL": "kept"})}
	if err := Apply(spec, in); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(spec, new(specs.Spec)) {
		t.Errorf("got %s", text(t, spec))
	}
	in.Effective = decided(t, map[string]string{"pids": "5"})
	if err := Apply(spec, in); err != nil || text(t, spec) != `{"ociVersion":"","linux":{"resources":{"pids":{"limit":5}}}}` {
		t.Errorf("got %s, %v", text(t, spec), err)
	}
}
