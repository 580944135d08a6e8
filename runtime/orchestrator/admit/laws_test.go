package admit

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"pgregory.net/rapid"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// drawName is a system call, sometimes one that this machine does not have.
func drawName(t *rapid.T) string {
	if rapid.IntRange(0, 20).Draw(t, "odd") == 0 {
		return rapid.SampledFrom([]string{"waitpid", "socketcall", "no_such_call"}).Draw(t, "foreign")
	}
	return rapid.SampledFrom(seccomp.Names()).Draw(t, "call")
}

func drawNames(t *rapid.T, most int) []string {
	names := make([]string, rapid.IntRange(1, most).Draw(t, "names"))
	for i := range names {
		names[i] = drawName(t)
	}
	return names
}

// drawProfile is a profile as people write them: a default, lists of names, and conditions on the first argument. A call
// is named once, as in every profile that means the same on all versions of libseccomp.
func drawProfile(t *rapid.T) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActLog, specs.ActKillProcess}
	p := &specs.LinuxSeccomp{DefaultAction: rapid.SampledFrom(actions).Draw(t, "default")}
	if rapid.Bool().Draw(t, "32 bit") {
		p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	}
	named := make(map[string]bool)
	for range rapid.IntRange(0, 12).Draw(t, "rules") {
		rule := specs.LinuxSyscall{Action: rapid.SampledFrom(actions).Draw(t, "action")}
		for _, name := range drawNames(t, 60) {
			if !named[name] {
				named[name] = true
				rule.Names = append(rule.Names, name)
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "conditional") == 0 {
			rule.Args = []specs.LinuxSeccompArg{{
				Value: rapid.SampledFrom(interesting).Draw(t, "value"),
				Op:    rapid.SampledFrom([]specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpGreaterEqual, specs.OpMaskedEqual}).Draw(t, "op"),
			}}
		}
		p.Syscalls = append(p.Syscalls, rule)
	}
	return p
}

func drawValue(t *rapid.T) policy.Value { return policy.Value(rapid.IntRange(0, 3).Draw(t, "verdict")) }

// drawSite is one that grants everything and has decided at random: the request's profile must hold all the same.
func drawSite(t *rapid.T) policy.Site {
	s := site(nil, []policy.Claim{siteDefault(policy.KeyMode, policy.Value(rapid.IntRange(0, 2).Draw(t, "mode")))}, policy.KeySyscalls, policy.KeySeccomp, policy.KeyMode)
	for range rapid.IntRange(0, 5).Draw(t, "guards") {
		v := drawValue(t)
		g := policy.Guard{Key: policy.KeySyscalls.Member(drawName(t)), Source: "guardrail"}
		if rapid.Bool().Draw(t, "floor") {
			g.Floor = &v
		} else {
			g.Ceiling = &v
		}
		s.Guards = append(s.Guards, g)
	}
	for range rapid.IntRange(0, 5).Draw(t, "defaults") {
		s.Claims = append(s.Claims, siteDefault(policy.KeySyscalls.Member(drawName(t)), drawValue(t)))
	}
	s.Prefer = map[policy.Dimension]policy.Prefer{
		policy.Syscalls: rapid.SampledFrom([]policy.Prefer{policy.PreferRequest, policy.PreferStrictest, policy.PreferPrediction}).Draw(t, "prefer"),
	}
	return s
}

func drawInput(t *rapid.T, in Input) Input {
	in.Site = drawSite(t)
	in.Request.Spec.Linux.Seccomp = drawProfile(t)
	in.Request.Facts.Annotations = annotations{}
	if rapid.Bool().Draw(t, "allows") {
		in.Request.Facts.Annotations["forefend.dev/syscalls.allow"] = drawName(t) + "," + drawName(t)
	}
	if rapid.Bool().Draw(t, "denies") {
		in.Request.Facts.Annotations["forefend.dev/syscalls.deny"] = drawName(t)
	}
	in.Prediction.Sealed = rapid.Bool().Draw(t, "sealed")
	in.Prediction.Seen = map[string]int{}
	for _, name := range drawNames(t, 40) {
		in.Prediction.Seen[name] = 1
		in.Predicted = append(in.Predicted, predicts(policy.KeySyscalls.Member(name), drawValue(t)))
	}
	for _, name := range drawNames(t, 5) {
		in.Operator = append(in.Operator, policy.Claim{Key: policy.KeySyscalls.Member(name), Value: drawValue(t),
			Origin: policy.Origin{Author: policy.Operator, Source: "forefend set"}})
	}
	if rapid.Bool().Draw(t, "admin") {
		c := *in.Request.Spec.Process.Capabilities
		c.Bounding = append(c.Bounding[:len(c.Bounding):len(c.Bounding)], "CAP_SYS_ADMIN")
		in.Request.Spec.Process = &specs.Process{Capabilities: &c}
	}
	return in
}

// Whatever history, annotations, operator and site say: what the requested profile stops stays stopped, each field says
// why, and the same input gives the same decision whatever its order and whatever was compiled before.
func TestLaws(t *testing.T) {
	base := asked(t, nil)
	compiler := &Compiler{}
	rapid.Check(t, func(t *rapid.T) {
		in := base
		linux := *base.Request.Spec.Linux
		in.Request.Spec.Linux = &linux
		in = drawInput(t, in)
		d, err := Decide(in)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%v", err)
			}
			return
		}
		everyFieldExplained(t, d)
		if d.Seccomp != nil {
			neverWider(t, linux.Seccomp, d)
		}
		rand.Shuffle(len(in.Predicted), func(i, j int) { in.Predicted[i], in.Predicted[j] = in.Predicted[j], in.Predicted[i] })
		in.Compiler = compiler
		again, err := Decide(in)
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		one, _ := json.Marshal(d)
		two, _ := json.Marshal(again)
		if !bytes.Equal(one, two) {
			t.Fatalf("decided differently:\n%s\n%s", one, two)
		}
	})
	if n := len(compiler.by); n > maxCompiled {
		t.Errorf("%d profiles remembered", n)
	}
}
