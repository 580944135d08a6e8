package policy

import (
	"cmp"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func at(v Value) *Value { return &v }

func by(a Author, source string) Origin { return Origin{Author: a, Source: source} }

func claim(k Key, v Value, a Author, source string) Claim {
	return Claim{Key: k, Value: v, Origin: by(a, source)}
}

func annotated(k Key, v Value) Claim {
	return Claim{Key: k, Value: v, Origin: by(Request, "annotation "+string(k)), Amends: true}
}

// decided prints a field as explain would: value, winner, then the losers.
func decided(f Field) string {
	s := "-"
	if !f.NoValue {
		s = f.Key.Format(f.Value) + " by " + f.Source
	}
	for _, l := range f.Lost {
		s += "; not " + f.Key.Format(l.Value) + " by " + l.Source + ": " + l.Why
	}
	return s
}

func TestMerge(t *testing.T) {
	const mi = 1 << 20
	ptrace := KeySyscalls.Member("ptrace")
	raw := KeyCapabilities.Member("CAP_NET_RAW")
	observe := claim(KeyMode, ModeObserve, Default, "config.toml mode")
	for name, c := range map[string]struct {
		in   Input
		key  Key
		want string
	}{
		"a default stands where nobody speaks": {
			Input{Claims: []Claim{claim(KeyPIDs, 100, Default, "site")}}, KeyPIDs, "100 by site",
		},
		"a prediction replaces a default, even a tighter one": {
			Input{Claims: []Claim{claim(KeyPIDs, 100, Default, "site"), claim(KeyPIDs, 300, Prediction, "history")}}, KeyPIDs,
			"300 by history; not 100 by site: a default yields to a prediction",
		},
		"an explicit request for resources wins over a prediction": {
			Input{Claims: []Claim{claim(KeyMemory, 512*mi, Request, "spec"), claim(KeyMemory, 64*mi, Prediction, "history"), claim(KeyMemory, 32*mi, Default, "site")}}, KeyMemory,
			"512 MiB by spec; not 64 MiB by history: resources prefers the request; not 32 MiB by site: a default yields to a request",
		},
		"the strictest of request and prediction decides a system call": {
			Input{Claims: []Claim{claim(ptrace, SyscallWatch, Request, "spec"), claim(ptrace, SyscallDeny, Prediction, "history")}}, ptrace,
			"deny by history; not watch by spec: syscalls prefers the strictest",
		},
		"and the request when it is the stricter": {
			Input{Claims: []Claim{claim(ptrace, SyscallDeny, Request, "spec"), claim(ptrace, SyscallNative, Prediction, "history")}}, ptrace,
			"deny by spec; not native by history: syscalls prefers the strictest",
		},
		"a site may prefer the prediction": {
			Input{
				Claims: []Claim{claim(KeyMemory, 512*mi, Request, "spec"), claim(KeyMemory, 640*mi, Prediction, "history")},
				Prefer: map[Dimension]Prefer{Resources: PreferPrediction},
			}, KeyMemory,
			"640 MiB by history; not 512 MiB by spec: resources prefers the prediction",
		},
		"a rule that does not exist is the default rule": {
			Input{
				Claims: []Claim{claim(KeyMemory, 512*mi, Request, "spec"), claim(KeyMemory, 64*mi, Prediction, "history")},
				Prefer: map[Dimension]Prefer{Resources: "loosest"},
			}, KeyMemory,
			"512 MiB by spec; not 64 MiB by history: resources prefers the request",
		},
		"the operator decides": {
			Input{Claims: []Claim{claim(KeyPIDs, 7, Operator, "forefend set"), claim(KeyPIDs, 100, Request, "spec")}}, KeyPIDs,
			"7 by forefend set; not 100 by spec: the operator decides",
		},
		"a ceiling stands above the operator": {
			Input{
				Claims: []Claim{claim(KeyPIDs, 700, Operator, "forefend set")},
				Guards: []Guard{{Key: KeyPIDs, Ceiling: at(500), Source: "site"}},
			}, KeyPIDs,
			"500 by site; not 700 by forefend set: looser than the ceiling",
		},
		"a floor lifts": {
			Input{
				Claims: []Claim{claim(KeyPIDs, 1, Request, "spec")},
				Guards: []Guard{{Key: KeyPIDs, Floor: at(20), Source: "site"}, {Key: KeyPIDs, Floor: at(10), Source: "profile"}},
			}, KeyPIDs,
			"20 by site; not 1 by spec: tighter than the floor",
		},
		"a ceiling below a floor holds": {
			Input{
				Claims: []Claim{claim(KeyPIDs, 1, Request, "spec")},
				Guards: []Guard{{Key: KeyPIDs, Floor: at(20), Source: "site"}, {Key: KeyPIDs, Ceiling: at(10), Source: "profile"}},
			}, KeyPIDs,
			"10 by profile; not 1 by spec: tighter than the floor; not 20 by site: looser than the ceiling",
		},
		"a floor alone decides nothing": {
			Input{Guards: []Guard{{Key: KeyPIDs, Floor: at(20), Source: "site"}}}, KeyPIDs, "",
		},
		"of equal guards the first by name speaks": {
			Input{
				Claims: []Claim{claim(KeyPIDs, 30, Request, "spec")},
				Guards: []Guard{{Key: KeyPIDs, Ceiling: at(20), Source: "b"}, {Key: KeyPIDs, Ceiling: at(20), Source: "a"}, {Key: KeyPIDs, Ceiling: at(20), Source: "c"}},
			}, KeyPIDs, "20 by a; not 30 by spec: looser than the ceiling",
		},
		"of equal floors as well": {
			Input{
				Claims: []Claim{claim(KeyPIDs, 10, Request, "spec")},
				Guards: []Guard{{Key: KeyPIDs, Floor: at(20), Source: "b"}, {Key: KeyPIDs, Floor: at(20), Source: "a"}, {Key: KeyPIDs, Floor: at(20), Source: "c"}},
			}, KeyPIDs, "20 by a; not 10 by spec: tighter than the floor",
		},
		"a ceiling needs no claim": {
			Input{Guards: []Guard{{Key: KeyPIDs, Ceiling: at(10), Floor: at(5), Source: "site"}}}, KeyPIDs, "10 by site",
		},
		"a ceiling on a member needs no claim": {
			Input{Guards: []Guard{{Key: ptrace, Ceiling: at(SyscallDeny), Source: "site"}}}, ptrace, "deny by site",
		},
		"who closes itself says whom it may contact": {
			Input{Claims: []Claim{annotated(KeyEgressDefault, Tight), annotated("egress/10.0.0.0/8", Loose)}}, "egress/10.0.0.0/8",
			"allowed by annotation egress/10.0.0.0/8",
		},
		"whom the site closes needs a grant for exceptions": {
			Input{Claims: []Claim{claim(KeyEgressDefault, Tight, Default, "site"), annotated("egress/10.0.0.0/8", Loose)}}, "egress/10.0.0.0/8",
			"-; not allowed by annotation egress/10.0.0.0/8: looser than blocked, and profile \"\" grants no loosening of egress/10.0.0.0/8",
		},
		"and for exceptions from feeds that a guardrail has block": {
			Input{
				Claims: []Claim{annotated("egress/10.0.0.0/8", Loose)}, Guards: []Guard{{Key: KeyEgressFeeds, Ceiling: at(FeedsBlock), Source: "site"}},
				Grants: []Key{KeyEgress},
			}, "egress/10.0.0.0/8", "allowed by annotation egress/10.0.0.0/8",
		},
		"feeds are watched where nobody speaks": {
			Input{Claims: []Claim{annotated(KeyEgressFeeds, FeedsOff)}}, KeyEgressFeeds,
			"-; not off by annotation egress.feeds: looser than watch, and profile \"\" grants no loosening of egress.feeds",
		},
		"an annotation tightens the spec": {
			Input{Claims: []Claim{claim(KeyMemory, 512*mi, Request, "spec"), annotated(KeyMemory, 64*mi)}}, KeyMemory,
			"64 MiB by annotation memory; not 512 MiB by spec: tightened by annotation memory",
		},
		"it loosens nothing by itself": {
			Input{Claims: []Claim{claim(KeyMemory, 64*mi, Request, "spec"), annotated(KeyMemory, 512*mi)}, Profile: "web"}, KeyMemory,
			`64 MiB by spec; not 512 MiB by annotation memory: looser than 64 MiB, and profile "web" grants no loosening of memory`,
		},
		"unless the profile grants it": {
			Input{Claims: []Claim{claim(KeyMemory, 64*mi, Request, "spec"), annotated(KeyMemory, 512*mi)}, Profile: "web", Grants: []Key{KeyMemory}}, KeyMemory,
			`512 MiB by annotation memory; not 64 MiB by spec: loosened by annotation memory, which profile "web" grants`,
		},
		"a grant of the family is one of each member": {
			Input{Claims: []Claim{claim(ptrace, SyscallDeny, Default, "forefend"), annotated(ptrace, SyscallWatch)}, Profile: "web", Grants: []Key{KeySyscalls}}, ptrace,
			"watch by annotation syscalls/ptrace; not deny by forefend: a default yields to a request",
		},
		"a refused annotation leaves a default alone": {
			Input{Claims: []Claim{claim(ptrace, SyscallDeny, Default, "forefend"), annotated(ptrace, SyscallWatch)}, Profile: "web"}, ptrace,
			`deny by forefend; not watch by annotation syscalls/ptrace: looser than deny, and profile "web" grants no loosening of syscalls/ptrace`,
		},
		"an annotation may ask for what the prediction gives anyway": {
			Input{Claims: []Claim{claim(KeyPIDs, 10, Default, "site"), claim(KeyPIDs, 300, Prediction, "history"), annotated(KeyPIDs, 200)}}, KeyPIDs,
			"200 by annotation pids; not 300 by history: resources prefers the request; not 10 by site: a default yields to a request",
		},
		"an annotation under the default wins over a tighter prediction": {
			Input{Claims: []Claim{claim(KeyPIDs, 300, Default, "site"), claim(KeyPIDs, 10, Prediction, "history"), annotated(KeyPIDs, 200)}}, KeyPIDs,
			"200 by annotation pids; not 10 by history: resources prefers the request; not 300 by site: a default yields to a request",
		},
		"an annotation that asks for what the spec says is no loosening": {
			Input{Claims: []Claim{claim(KeyPIDs, 30, Request, "spec"), annotated(KeyPIDs, 30)}}, KeyPIDs,
			"30 by annotation pids; not 30 by spec: tightened by annotation pids",
		},
		"a capability nobody gave is not had for the asking": {
			Input{Claims: []Claim{annotated(raw, Loose)}, Profile: "default"}, raw,
			`-; not kept by annotation capabilities/CAP_NET_RAW: looser than dropped, and profile "default" grants no loosening of capabilities/CAP_NET_RAW`,
		},
		"nor the mode": {
			Input{Claims: []Claim{annotated(KeyMode, ModeObserve)}, Profile: "default"}, KeyMode,
			`adaptive by forefend; not observe by annotation mode: looser than adaptive, and profile "default" grants no loosening of mode`,
		},
		"nor the absence of the agent": {
			Input{Claims: []Claim{annotated(KeyAgent, Loose)}, Profile: "default"}, KeyAgent,
			`-; not off by annotation agent: looser than on, and profile "default" grants no loosening of agent`,
		},
		"nor a system call": {
			Input{Claims: []Claim{annotated(ptrace, SyscallWatch)}, Profile: "default"}, ptrace,
			`-; not watch by annotation syscalls/ptrace: looser than deny, and profile "default" grants no loosening of syscalls/ptrace`,
		},
		"a limit where there is none tightens": {
			Input{Claims: []Claim{annotated(KeyMemory, 64*mi)}}, KeyMemory, "64 MiB by annotation memory",
		},
		"of equal claims the tightest speaks": {
			Input{Claims: []Claim{claim(KeyPIDs, 30, Prediction, "scan"), claim(KeyPIDs, 20, Prediction, "history"), claim(KeyPIDs, 30, Prediction, "scan")}}, KeyPIDs,
			"20 by history; not 30 by scan: a claim of equal strength is tighter",
		},
		"observe mode records": {
			Input{Claims: []Claim{observe, claim(KeyPIDs, 30, Prediction, "history"), claim(KeyPIDs, 20, Default, "site")}}, KeyPIDs,
			"-; not 20 by site: observe mode: recorded, not applied; not 30 by history: observe mode: recorded, not applied",
		},
		"observe mode applies requests and guardrails": {
			Input{
				Claims: []Claim{observe, claim(KeyPIDs, 30, Request, "spec"), claim(KeyPIDs, 20, Default, "site")},
				Guards: []Guard{{Key: KeyPIDs, Ceiling: at(25), Source: "site"}},
			}, KeyPIDs,
			"25 by site; not 20 by site: observe mode: recorded, not applied; not 30 by spec: looser than the ceiling",
		},
		"in observe mode a default that does not hold does not bound an annotation": {
			Input{Claims: []Claim{observe, claim(KeyPIDs, 20, Default, "site"), annotated(KeyPIDs, 40)}}, KeyPIDs,
			"40 by annotation pids; not 20 by site: observe mode: recorded, not applied",
		},
		"the mode itself is not recorded only": {
			Input{Claims: []Claim{observe}}, KeyMode, "observe by config.toml mode",
		},
		"a ceiling of the mode turns observation off": {
			Input{
				Claims: []Claim{observe, claim(KeyPIDs, 20, Default, "site")},
				Guards: []Guard{{Key: KeyMode, Ceiling: at(ModeAdaptive), Source: "site"}},
			}, KeyPIDs,
			"20 by site",
		},
		"a ceiling that leaves room does not set the mode": {
			Input{Guards: []Guard{{Key: KeyMode, Ceiling: at(ModeObserve), Source: "site"}}}, KeyMode, "adaptive by forefend",
		},
		"nobody claims to be a guardrail": {
			Input{Claims: []Claim{claim(KeyPIDs, 5, Guardrail, "impostor"), claim(KeyPIDs, 6, Author(77), "impostor"), claim(KeyPIDs, 20, Default, "site")}}, KeyPIDs,
			"20 by site; not 5 by impostor: only a guard is a guardrail; not 6 by impostor: only a guard is a guardrail",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			family, member := c.key.Family()
			for _, f := range Merge(c.in).Fields {
				if f.Key == family && (member == "" || contains(f.Names, member)) {
					got += decided(f)
				}
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestMergeDropsUnknownKeys(t *testing.T) {
	e := Merge(Input{
		Claims: []Claim{claim("memry", 1, Request, "spec"), claim(KeySyscalls, 1, Request, "spec"), claim("syscalls/", 1, Request, "spec"), claim("memory/x", 1, Request, "spec")},
		Guards: []Guard{{Key: "memry", Ceiling: at(1), Source: "site"}},
	})
	if len(e.Fields) != 1 || e.Fields[0].Key != KeyMode {
		t.Errorf("got %+v", e.Fields)
	}
}

// TestMergeSharesNothing changes a result and looks whether anything else
// changed with it.
func TestMergeSharesNothing(t *testing.T) {
	ceiling := Value(5)
	in := Input{
		Claims: []Claim{claim(KeyPIDs, 10, Request, "spec"), claim("syscalls/a", 1, Default, "site"), claim("syscalls/b", 1, Default, "site")},
		Guards: []Guard{{Key: KeyPIDs, Ceiling: &ceiling, Source: "site"}},
	}
	first, second := Merge(in), Merge(in)
	ceiling = 1
	for i := range first.Fields {
		f := &first.Fields[i]
		f.Value = 99
		for j := range f.Lost {
			f.Lost[j].Value = 99
		}
		for j := range f.Names {
			f.Names[j] = "other"
		}
	}
	ceiling = 5
	if third := Merge(in); !reflect.DeepEqual(second, third) {
		t.Errorf("got %+v, then %+v", second, third)
	}
}

// golden is a policy in which everything that JSON can hold occurs.
func golden() Effective {
	return Merge(Input{
		Claims: []Claim{
			claim(KeyMode, ModeEnforce, Default, "config.toml mode"),
			claim(KeyMemory, 1<<30, Request, "spec"),
			{Key: KeyMemory, Value: 300 << 20, Origin: Origin{Author: Prediction, Source: "history image+command, 5 runs", Reason: "peak of 99 % of runs"}},
			claim(KeyMemorySwap, Unlimited, Request, "spec"),
			claim(KeyCPUs, 1500, Operator, "forefend set"),
			claim("syscalls/ptrace", SyscallDeny, Default, "forefend"),
			claim("syscalls/bpf", SyscallDeny, Default, "forefend"),
			annotated("syscalls/ptrace", SyscallWatch),
			claim("syscalls/read", SyscallNative, Prediction, "history"),
			annotated("capabilities/CAP_NET_RAW", Loose),
		},
		Guards:  []Guard{{Key: KeyCPUs, Ceiling: at(1000), Source: "config.toml [guardrails]"}, {Key: "syscalls/bpf", Ceiling: at(SyscallKill), Source: "profile web"}},
		Grants:  []Key{KeySyscalls},
		Profile: "web",
	})
}

// The order of claims is total: which of two is asked first makes no difference.
func TestClaimsHaveOneOrder(t *testing.T) {
	ranked := claim(KeyPIDs, 100, Default, "profile web")
	ranked.rank = 1
	reasoned := claim(KeyPIDs, 100, Default, "site")
	reasoned.Reason = "because"
	ordered := []Claim{
		ranked, claim(KeyPIDs, 90, Default, "site"), claim(KeyPIDs, 100, Default, "config.toml"), claim(KeyPIDs, 100, Default, "site"), reasoned,
		claim(KeyPIDs, 100, Prediction, "history"), claim(KeyPIDs, 100, Request, "spec"), annotated(KeyPIDs, 50),
	}
	for i := range ordered {
		for j := range ordered {
			if got, want := compareClaims(&ordered[i], &ordered[j]), cmp.Compare(i, j); got != want {
				t.Errorf("%+v against %+v: %d, want %d", ordered[i], ordered[j], got, want)
			}
		}
	}
}

func TestEffectiveGolden(t *testing.T) {
	got, err := json.MarshalIndent(golden(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "effective.v1.json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("Effective's JSON form has changed; raise EffectiveVersion if readers would misread it, then -update:\n%s", got)
	}
	var back Effective
	if err := json.Unmarshal(want, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, golden()) {
		t.Errorf("read back as %+v", back)
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(want), `"guardrail"`, `"god"`)), &back); err == nil || !strings.Contains(err.Error(), "god") {
		t.Errorf("an unknown author was read: %v", err)
	}
}
