package rewrite

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// FuzzClaimsApply: no spec makes the package panic, and the claims of any spec
// change nothing in it.
func FuzzClaimsApply(f *testing.F) {
	for _, spec := range corpus(f) {
		b, err := json.Marshal(spec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false, int64(1<<20))
	}
	f.Add([]byte(`{"linux":{"resources":{"cpu":{"quota":-9,"period":18446744073709551615},"memory":{"limit":-9},"unified":{"cpu.max":"9 0"}}}}`), true, int64(-1))
	f.Add([]byte(`{"linux":{"resources":{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]},"unified":{"io.max":"8:0 rbps=4 wbps=max\nx"}}}}`), true, int64(7))
	f.Fuzz(func(t *testing.T, raw []byte, unified bool, n int64) {
		var spec specs.Spec
		if json.Unmarshal(raw, &spec) != nil {
			return
		}
		before, _ := json.Marshal(&spec)
		claims := Claims(&spec, unified)
		if err := Apply(&spec, Input{Effective: policy.Merge(policy.Input{Claims: claims}), Unified: unified}); err != nil {
			t.Fatal(err)
		}
		if after, _ := json.Marshal(&spec); string(after) != string(before) {
			t.Fatalf("its own claims changed\n%s\nto\n%s", before, after)
		}
		for _, k := range anyKeys {
			claims = append(claims, policy.Claim{Key: k, Value: policy.Value(n), Origin: policy.Origin{Author: policy.Operator, Source: "fuzz"}})
		}
		eff := policy.Merge(policy.Input{Claims: claims})
		if Apply(&spec, Input{Effective: eff, Unified: unified}) != nil {
			return
		}
		once, _ := json.Marshal(&spec)
		if err := Apply(&spec, Input{Effective: eff, Unified: unified}); err != nil {
			t.Fatal(err)
		}
		if twice, _ := json.Marshal(&spec); string(twice) != string(once) {
			t.Fatalf("twice\n%s\nis not once\n%s", twice, once)
		}
		_, _, _ = ProcessJSON(raw, &spec, eff)
	})
}
