package seccomp

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestEveryCallHasOneClass(t *testing.T) {
	lists := map[Class]string{ClassHot: hotCalls, ClassBenign: benignCalls, ClassSensitive: sensitiveCalls, ClassDangerous: dangerousCalls}
	seen := make(map[string]Class)
	for class, list := range lists {
		for name := range strings.FieldsSeq(list) {
			if other, twice := seen[name]; twice {
				t.Errorf("%s is %s and %s", name, other, class)
			}
			seen[name] = class
		}
	}
	for _, rows := range [][]syscallNumber{nativeSyscalls, foreignSyscalls} {
		for _, r := range rows {
			if _, ok := seen[r.name]; !ok {
				t.Errorf("%s has no class", r.name)
			}
		}
	}
}

func TestClassify(t *testing.T) {
	for name, want := range map[string]Class{
		"read": ClassHot, "futex": ClassHot, "mkdir": ClassBenign, "execve": ClassSensitive, "connect": ClassSensitive,
		"ptrace": ClassDangerous, "io_uring_setup": ClassDangerous, "keyctl": ClassDangerous, "a_call_of_the_future": ClassSensitive,
	} {
		if got := Classify(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// The calls of containerd's default profile that need a capability are dangerous
// here too, and that capability speaks for them.
func TestCapabilitiesAgreeWithContainerd(t *testing.T) {
	spec := boxSpec("x")
	without := allowed(DefaultProfile(nil))
	for _, capability := range []string{"CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_BOOT", "CAP_SYS_TIME", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
		"CAP_SYS_PACCT", "CAP_SYS_TTY_CONFIG", "CAP_DAC_READ_SEARCH", "CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"} {
		spec.Process.Capabilities.Bounding = []string{capability}
		for name := range allowed(DefaultProfile(spec)) {
			if without[name] || name == "clone" {
				continue
			}
			if name != "clone3" && Classify(name) != ClassDangerous {
				t.Errorf("%s needs %s but is %s", name, capability, Classify(name))
			}
			if !slices.Contains(Capabilities(name), capability) {
				t.Errorf("%s does not speak for %s: %v", capability, name, Capabilities(name))
			}
		}
	}
	if Capabilities("read") != nil || Capabilities("io_uring_setup") != nil {
		t.Error("a capability speaks for a call that needs none")
	}
}

func TestIndispensableCallsAreHot(t *testing.T) {
	for name := range strings.FieldsSeq(handshakeCalls) {
		if Classify(name) != ClassHot {
			t.Errorf("%s is %s", name, Classify(name))
		}
	}
	if !indispensable("write") || indispensable("execve") {
		t.Error("write must be, execve must not")
	}
}

func TestWords(t *testing.T) {
	for _, v := range []Verdict{Kill, Deny, Watch, Native} {
		raw, err := json.Marshal(map[string]Verdict{"v": v})
		must(t, err)
		var back map[string]Verdict
		must(t, json.Unmarshal(raw, &back))
		if back["v"] != v {
			t.Errorf("%s came back as %s", raw, back["v"])
		}
	}
	for c := ClassHot; c <= ClassDangerous; c++ {
		raw, err := json.Marshal(c)
		must(t, err)
		var back Class
		must(t, json.Unmarshal(raw, &back))
		if back != c {
			t.Errorf("%s came back as %s", raw, back)
		}
	}
	if !(Kill < Deny && Deny < Watch && Watch < Native) {
		t.Error("a looser verdict must be larger")
	}
	for _, bad := range []string{"", "Deny", "allow"} {
		if new(Verdict).UnmarshalText([]byte(bad)) == nil || new(Class).UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q was read", bad)
		}
	}
	if _, err := Verdict(9).MarshalText(); err == nil || Verdict(9).String() != "verdict(9)" {
		t.Error("verdict 9 was written")
	}
	if _, err := Class(0).MarshalText(); err == nil || Class(0).String() != "class(0)" {
		t.Error("class 0 was written")
	}
}

func TestNumbersAndNames(t *testing.T) {
	names := Names()
	for _, name := range names {
		nr, ok := Number(name)
		if back, ok2 := Name(nr); !ok || !ok2 || back != name {
			t.Errorf("%s is %d is %s", name, nr, back)
		}
	}
	// The newest call of Linux 6.18.
	if !slices.Contains(names, "file_setattr") {
		t.Error("the table ends before Linux 6.18; run go generate")
	}
	for _, nr := range []int{-1, 1 << 20} {
		if name, ok := Name(nr); ok {
			t.Errorf("%d is called %s", nr, name)
		}
	}
	if _, ok := Number("no_such_call"); ok {
		t.Error("no_such_call has a number")
	}
}
