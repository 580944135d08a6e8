package rewrite

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

func TestResourceClaims(t *testing.T) {
	const none = -1
	for name, c := range map[string]struct {
		resources string
		v1, v2    map[policy.Key]policy.Value
	}{
		"nothing": {`{}`, nil, nil},
		"zeros": {`{"memory":{"limit":0,"swap":0,"reservation":0},"cpu":{"quota":0,"period":0,"shares":0}}`,
			nil, nil},
		"minus one is no limit": {`{"memory":{"limit":-1,"swap":-1,"reservation":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}`,
			map[policy.Key]policy.Value{"memory": none, "memory.swap": none, "memory.soft": none, "cpus": none, "pids": none},
			map[policy.Key]policy.Value{"memory": none, "memory.swap": none, "cpus": none, "pids": none}},
		"other negatives mean nothing": {`{"memory":{"limit":-2}}`, nil, nil},
		"runc makes no pids one":       {`{"pids":{"limit":0}}`, map[policy.Key]policy.Value{"pids": 1}, map[policy.Key]policy.Value{"pids": 1}},
		"pids object alone":            {`{"pids":{}}`, nil, nil},
		"quota rounds up, default period": {`{"cpu":{"quota":33333}}`,
			map[policy.Key]policy.Value{"cpus": 334}, map[policy.Key]policy.Value{"cpus": 334}},
		"quota over its period": {`{"cpu":{"quota":25000,"period":50000}}`,
			map[policy.Key]policy.Value{"cpus": 500}, map[policy.Key]policy.Value{"cpus": 500}},
		"huge quota": {`{"cpu":{"quota":9223372036854775807,"period":1,"shares":18446744073709551615}}`,
			map[policy.Key]policy.Value{"cpus": none, "cpu.shares": none}, map[policy.Key]policy.Value{"cpus": none, "cpu.shares": none}},
		"more than any number": {`{"cpu":{"quota":9223372036854775806,"period":1}}`,
			map[policy.Key]policy.Value{"cpus": none}, map[policy.Key]policy.Value{"cpus": none}},
		"huge product": {`{"cpu":{"quota":9223372036854775806,"period":1000}}`,
			map[policy.Key]policy.Value{"cpus": math.MaxInt64 - 1}, map[policy.Key]policy.Value{"cpus": math.MaxInt64 - 1}},
		"huge period": {`{"cpu":{"quota":1,"period":18446744073709551615}}`, map[policy.Key]policy.Value{"cpus": 1}, map[policy.Key]policy.Value{"cpus": 1}},
		"v2 files overrule": {`{"memory":{"limit":5},"unified":{"memory.max":"7","memory.swap.max":"3","memory.high":"6","cpu.max":"5000 10000","pids.max":"9"}}`,
			map[policy.Key]policy.Value{"memory": 5},
			map[policy.Key]policy.Value{"memory": 7, "memory.swap": 10, "memory.soft": 6, "cpus": 500, "pids": 9}},
		"v2 max": {`{"cpu":{"shares":4},"unified":{"memory.max":"max","memory.swap.max":"0","cpu.max":"max","pids.max":"max","cpu.weight":"7"}}`,
			map[policy.Key]policy.Value{"cpu.shares": 4},
			map[policy.Key]policy.Value{"memory": none, "memory.swap": none, "cpus": none, "pids": none}},
		"v2 garbage": {`{"memory":{"limit":5},"unified":{"memory.max":"-7","memory.swap.max":"x","cpu.max":"y","memory.high":""}}`,
			map[policy.Key]policy.Value{"memory": 5}, nil},
		"v2 quota without period": {`{"unified":{"cpu.max":"5000"}}`, nil, map[policy.Key]policy.Value{"cpus": 50}},
		"v2 swap, memory unknown": {`{"unified":{"memory.swap.max":"5"}}`, nil, map[policy.Key]policy.Value{"memory.swap": none}},
		"v2 swap overflows": {`{"unified":{"memory.max":"9223372036854775806","memory.swap.max":"5"}}`, nil,
			map[policy.Key]policy.Value{"memory": math.MaxInt64 - 1, "memory.swap": none}},
	} {
		t.Run(name, func(t *testing.T) {
			r := parse[specs.LinuxResources](t, c.resources)
			for unified, want := range map[bool]map[policy.Key]policy.Value{false: c.v1, true: c.v2} {
				want = maps.Clone(want)
				for k, v := range want {
					if v == none {
						want[k] = policy.Unlimited
					}
				}
				list := ResourceClaims(r, unified)
				if got := said(list); !maps.Equal(got, want) {
					t.Errorf("unified %t: got %v, want %v", unified, got, want)
				}
				for _, cl := range list {
					if cl.Author != policy.Request || cl.Source != SourceUpdate || cl.Amends {
						t.Errorf("origin of %s: %+v", cl.Key, cl)
					}
				}
			}
		})
	}
	if got := ResourceClaims(nil, false); len(got) != 0 {
		t.Errorf("no resources: %v", got)
	}
}

func TestClaims(t *testing.T) {
	spec := parse[specs.Spec](t, `{"root":{"readonly":true},"process":{"noNewPrivileges":true,
		"capabilities":{"bounding":["CAP_KILL","CAP_NEW_AND_UNKNOWN"],"ambient":["CAP_CHOWN"]},
		"rlimits":[{"type":"RLIMIT_NOFILE","hard":5,"soft":5},{"type":"RLIMIT_NOFILE","hard":9,"soft":5},
			{"type":"RLIMIT_CORE","hard":18446744073709551615,"soft":0},{"type":"RLIMIT_NONE","hard":1}]},
		"linux":{"maskedPaths":["/a","/a","","/b"],"readonlyPaths":["/c"],"namespaces":[{"type":"network"}],
			"resources":{"pids":{"limit":3}}}}`)
	got := said(Claims(spec, false))
	want := map[policy.Key]policy.Value{"pids": 3, "no_new_privileges": 0, "readonly_root": 0,
		"rlimits/RLIMIT_NOFILE": 9, "rlimits/RLIMIT_CORE": policy.Unlimited,
		"masked_paths//a": 0, "masked_paths//b": 0, "readonly_paths//c": 0}
	for _, name := range policy.CapabilityNames() {
		want[policy.KeyCapabilities.Member(name)] = policy.Tight
	}
	want["capabilities/CAP_KILL"], want["capabilities/CAP_CHOWN"] = policy.Loose, policy.Loose
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if n := len(Claims(spec, false)); n != len(want) {
		t.Errorf("%d claims for %d keys", n, len(want))
	}
	for _, c := range Claims(spec, true) {
		if !c.Key.Known() || c.Author != policy.Request || c.Source != SourceSpec {
			t.Errorf("%+v", c)
		}
	}
}

// TestClaimsOfNothing: an empty spec leaves everything open but capabilities.
func TestClaimsOfNothing(t *testing.T) {
	for _, c := range Claims(new(specs.Spec), false) {
		if family, _ := c.Key.Family(); family != policy.KeyCapabilities || c.Value != policy.Tight {
			t.Errorf("%+v", c)
		}
	}
}

func TestNames(t *testing.T) {
	if n := len(policy.CapabilityNames()); n != 41 {
		t.Errorf("%d capabilities", n)
	}
	if n := len(RlimitNames()); n != 16 || !slices.IsSorted(RlimitNames()) {
		t.Errorf("%d limits: %v", n, RlimitNames())
	}
	RlimitNames()[0] = ""
	if RlimitNames()[0] == "" {
		t.Error("a caller can change the tables")
	}
}
