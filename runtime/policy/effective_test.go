package policy

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestEffectiveQueries(t *testing.T) {
	e := golden()
	if e.Mode() != ModeEnforce || e.Sealed() {
		t.Errorf("mode %d, sealed %v", e.Mode(), e.Sealed())
	}
	if f, ok := e.Lookup("syscalls/ptrace"); !ok || f.Value != SyscallWatch || f.Author != Request {
		t.Errorf("ptrace: %+v, %v", f, ok)
	}
	if _, ok := e.Lookup("syscalls/mount"); ok {
		t.Error("mount was decided")
	}
	if _, ok := e.Lookup("capabilities/CAP_NET_RAW"); ok {
		t.Error("a refused annotation decided")
	}
	if v := e.Value(KeyPIDs, 42); v != 42 {
		t.Errorf("undecided pids are %d", v)
	}
	for k, want := range map[Key]int64{KeyMemory: 1 << 30, KeyMemorySwap: -1, KeyPIDs: -1} {
		n, ok := e.Limit(k)
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%s is limited to %d, %v", k, n, ok)
		}
	}
	calls := map[string]Value{"bpf": SyscallKill, "ptrace": SyscallWatch, "read": SyscallNative}
	if got := e.Members(KeySyscalls); !maps.Equal(got, calls) {
		t.Errorf("got %v", got)
	}
	if got := e.Members(KeyCapabilities); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	if (Effective{}).Mode() != ModeAdaptive || (Effective{}).Sealed() {
		t.Error("an empty policy is not adaptive or is sealed")
	}
	sealed := Merge(Input{Claims: []Claim{claim(KeySealed, Tight, Prediction, "history")}})
	if !sealed.Sealed() {
		t.Error("not sealed")
	}
}

func TestMembersDecidedAlikeShareAField(t *testing.T) {
	origin := Origin{Author: Default, Source: "forefend", Reason: "dangerous"}
	var claims []Claim
	for _, name := range []string{"mount", "bpf", "umount2"} {
		claims = append(claims, Claim{Key: KeySyscalls.Member(name), Value: SyscallDeny, Origin: origin})
	}
	other := origin
	other.Reason = "DANGEROUS" // as long, not the same
	claims = append(claims,
		Claim{Key: "syscalls/acct", Value: SyscallDeny, Origin: other},
		Claim{Key: "syscalls/ptrace", Value: SyscallDeny, Origin: origin}, claim("syscalls/ptrace", SyscallNative, Operator, "x"))
	e := Merge(Input{Claims: claims})
	var names [][]string
	for _, f := range e.Fields[1:] {
		names = append(names, f.Names)
	}
	if want := [][]string{{"acct"}, {"bpf", "mount", "umount2"}, {"ptrace"}}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %q", names)
	}
}

// A value of nobody and no value look alike; a value must not get lost in it.
func TestNoValueIsNotFoldedWithAValue(t *testing.T) {
	impostor := claim("syscalls/a", 0, Guardrail, "impostor")
	other := impostor
	other.Key = "syscalls/b"
	e := Merge(Input{Claims: []Claim{{Key: "syscalls/a"}, impostor, other}})
	_, a := e.Lookup("syscalls/a")
	_, b := e.Lookup("syscalls/b")
	if !a || b {
		t.Errorf("a decided: %v, b decided: %v", a, b)
	}
}

// TestClaimsByOfLosers: a claim that lost is an author's claim as well, of a plain key and of a member.
func TestClaimsByOfLosers(t *testing.T) {
	lost := []Claim{claim(KeyPIDs, 7, Prediction, "seen"), claim("syscalls/ptrace", SyscallDeny, Prediction, "never seen")}
	e := Merge(Input{Claims: append(slices.Clone(lost), claim(KeyPIDs, 9, Operator, "set"), claim("syscalls/ptrace", SyscallWatch, Operator, "set"))})
	if got := e.ClaimsBy(Prediction); !slices.Equal(got, lost) {
		t.Errorf("got %+v, want %+v", got, lost)
	}
}

// TestClaimsBy takes a policy apart and merges it again, with nothing amended.
func TestClaimsBy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.Guards = nil
		for i := range in.Claims {
			in.Claims[i].Amends, in.Claims[i].rank = false, 0
			if in.Claims[i].Author == Request {
				in.Claims[i].Revision = 0 // else it amends
			}
		}
		want := Merge(in)
		in.Claims = nil
		for a := Default; a <= Operator; a++ {
			in.Claims = append(in.Claims, want.ClaimsBy(a)...)
		}
		in.Claims = append(in.Claims, want.ClaimsBy(Guardrail)...)
		if got := Merge(in); !reflect.DeepEqual(got, want) {
			t.Fatalf("merged again\n%+v\nnot\n%+v", got, want)
		}
	})
}

func TestReplace(t *testing.T) {
	before := Merge(Input{Claims: []Claim{claim(KeyPIDs, 1, Request, "spec"), claim(KeyNetwork, Loose, Request, "spec"), claim(KeyMemory, 5, Request, "spec")}})
	newer := Merge(Input{Claims: []Claim{claim(KeyPIDs, 2, Request, "update"), claim(KeyCPUs, 7, Request, "update"), claim(KeyNetwork, Tight, Request, "update")}})
	got := before.Replace(Resources, newer)
	want := Merge(Input{Claims: []Claim{claim(KeyCPUs, 7, Request, "update"), claim(KeyPIDs, 2, Request, "update"), claim(KeyNetwork, Loose, Request, "spec")}})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if v := before.Value(KeyPIDs, 0); v != 1 {
		t.Errorf("the old policy changed: pids %d", v)
	}
}

func TestEffectiveEqual(t *testing.T) {
	e := golden()
	if !e.Equal(golden()) || e.Equal(Effective{}) {
		t.Error("a policy equals itself, and not another")
	}
	for what, change := range map[string]func(*Field){
		"value":  func(f *Field) { f.Value++ },
		"reason": func(f *Field) { f.Reason += "?" },
		"names":  func(f *Field) { f.Names = append(f.Names[:0:0], "nobody") },
		"losers": func(f *Field) { f.Lost = append(f.Lost[:0:0], Lost{Why: "?"}) },
	} {
		other := golden()
		change(&other.Fields[0])
		if e.Equal(other) {
			t.Errorf("another %s makes no difference", what)
		}
	}
}
