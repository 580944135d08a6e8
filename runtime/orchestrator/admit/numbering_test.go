package admit

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

// The second numbering goes only where everything says that nobody needs it.
func TestOneNumbering(t *testing.T) {
	sealed := func(change func(*Input)) Input {
		in := learned(asked(t, nil))
		in.Scan = &evidence.Scan{Syscalls: []string{"read"}, OneNumbering: true}
		in.Request.Closed = true
		change(&in)
		return in
	}
	for name, c := range map[string]struct {
		in   Input
		want bool // the 32-bit architecture is kept
	}{
		"sealed, scanned and closed": {sealed(func(*Input) {}), false},
		"enforce mode":               {enforced(sealed(func(*Input) {})), false},
		"not sealed":                 {sealed(func(in *Input) { in.Prediction.Sealed = false }), true},
		"no scan":                    {sealed(func(in *Input) { in.Scan = nil }), true},
		"a 32-bit program":           {sealed(func(in *Input) { in.Scan.OneNumbering = false }), true},
		"a volume":                   {sealed(func(in *Input) { in.Request.Closed = false }), true},
		"a run made a 32-bit call":   {sealed(func(in *Input) { in.Prediction.Seen["mmap2"] = 1 }), true},
		"an operator allows one": {sealed(func(in *Input) {
			in.Operator = []policy.Claim{{Key: policy.KeySyscalls.Member("socketcall"), Value: policy.SyscallWatch, Origin: policy.Origin{Author: policy.Operator}}}
		}), true},
		"observe mode": {at(sealed(func(*Input) {}), policy.Site{Claims: []policy.Claim{siteDefault(policy.KeyMode, policy.ModeObserve)}}), true},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Decide(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Contains(d.Seccomp.Architectures, specs.ArchX86); got != c.want {
				t.Errorf("architectures %v", d.Seccomp.Architectures)
			}
			if said := slices.ContainsFunc(d.Notes, func(n string) bool { return n == endsThread }); said == c.want {
				t.Errorf("notes %q", d.Notes)
			}
		})
	}
}
