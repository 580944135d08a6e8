package admit

import (
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/seccomp"
)

// scanned is a scan that reaches a few calls.
func scanned(in Input, unknown ...string) Input {
	in.Scan = &evidence.Scan{Version: evidence.ScanVersion, Syscalls: []string{"read", "write", "openat", "mkdir", "socket", "execve", "ptrace", "modify_ldt"}}
	for _, u := range unknown {
		in.Scan.Unknown = append(in.Scan.Unknown, evidence.Unknown{Where: u, Why: "?"})
	}
	return in
}

func enforced(in Input) Input {
	return at(in, policy.Site{Claims: []policy.Claim{siteDefault(policy.KeyMode, policy.ModeEnforce)}})
}

func TestStaticAnalysis(t *testing.T) {
	base := withDefaultProfile(asked(t, nil))
	risky := scanned(base)
	risky.Risk = &evidence.Risk{Score: 60, Level: evidence.High}
	learned := enforced(scanned(base))
	learned.Prediction.Runs, learned.Prediction.Seen = 1, map[string]int{"chmod": 1}
	arm := enforced(scanned(base))
	arm.Scan.Arch = "riscv64"
	for name, c := range map[string]struct {
		in   Input
		want map[string]policy.Value
	}{
		"adaptive denies nothing benign": {scanned(base), map[string]policy.Value{
			"read": policy.SyscallNative, "mkdir": policy.SyscallWatch, "chmod": policy.SyscallWatch, "recvfrom": policy.SyscallNative,
			"sendfile": policy.SyscallWatch, "modify_ldt": policy.SyscallWatch, "ptrace": policy.SyscallDeny, // among its own it passes
		}},
		"adaptive with a scan that is not complete": {scanned(base, "libfoo"), map[string]policy.Value{
			"read": policy.SyscallNative, "sendfile": policy.SyscallWatch, "chmod": policy.SyscallWatch,
		}},
		"a high risk does not let what the scan alone speaks for": {risky, map[string]policy.Value{"modify_ldt": policy.SyscallDeny, "mkdir": policy.SyscallWatch}},
		"enforce denies what nobody expects": {enforced(scanned(base)), map[string]policy.Value{
			"read": policy.SyscallNative, "mkdir": policy.SyscallWatch, "chmod": policy.SyscallDeny, "sendfile": policy.SyscallDeny,
			"socket": policy.SyscallWatch, "bind": policy.SyscallDeny,
			"futex": policy.SyscallNative, // runc could start nothing without it
		}},
		"enforce with a scan that is not complete": {enforced(scanned(base, "libfoo")), map[string]policy.Value{"chmod": policy.SyscallDeny, "mkdir": policy.SyscallWatch}},
		"history adds to the scan":                 {learned, map[string]policy.Value{"chmod": policy.SyscallWatch, "chown": policy.SyscallDeny}},
		"a scan of another architecture":           {arm, map[string]policy.Value{"chmod": policy.SyscallWatch}},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Decide(c.in)
			if err != nil {
				t.Fatal(err)
			}
			for call, want := range c.want {
				if got := d.Effective.Value(policy.KeySyscalls.Member(call), -1); got != want {
					t.Errorf("%s is %s, want %s", call, policy.KeySyscalls.Format(got), policy.KeySyscalls.Format(want))
				}
			}
		})
	}
}

func TestAScanThatIsNotCompleteIsSaid(t *testing.T) {
	for _, c := range []struct {
		in   Input
		says string
	}{
		{scanned(withDefaultProfile(asked(t, nil)), "a", "b"), "could not follow 2 places of this image (forefend scan lists them): nothing is denied"},
		{enforced(scanned(withDefaultProfile(asked(t, nil)), "a")), "enforce mode denies what it does not reach all the same"},
	} {
		d, err := Decide(c.in)
		if err != nil || !strings.Contains(strings.Join(d.Notes, "\n"), c.says) {
			t.Errorf("%q: %v", d.Notes, err)
		}
	}
}

// What a client executes in the container is no surprise of the container, if the shim knows how to tell them apart.
func TestSurprisesAreTheContainersOwn(t *testing.T) {
	for _, own := range []bool{true, false} {
		in := enforced(scanned(withDefaultProfile(asked(t, nil))))
		in.Request.Own = own
		table := tableOf(t, decide(t, in))
		for name, want := range map[string]bool{"chmod": own, "bpf": false} {
			nr, _ := seccomp.Number(name)
			got := table.Decide(int32(nr), auditArch(), &[6]uint64{})
			if got.Verdict != seccomp.Deny || got.Own != want {
				t.Errorf("own %t: %s is %+v", own, name, got)
			}
		}
	}
}

func TestSummary(t *testing.T) {
	if Summary(nil) != nil {
		t.Error("something of nothing")
	}
	s := &evidence.Scan{Programs: make([]evidence.Program, 3)}
	for i := range 40 {
		s.Unknown = append(s.Unknown, evidence.Unknown{})
		s.Vulnerabilities = append(s.Vulnerabilities, evidence.Vulnerability{ID: string(rune('a' + i)), Severity: float64(i % 10), Reachable: i%2 == 0})
	}
	got := Summary(s)
	if len(got.Unknown) != maxListed || got.Unfollowed != 40 || got.Programs != 3 || got.Vulnerable != 40 || len(got.Vulnerabilities) != maxListed {
		t.Errorf("%+v", got)
	}
	if !slices.IsSortedFunc(got.Vulnerabilities, func(x, y evidence.Vulnerability) int { return int(y.Severity - x.Severity) }) || !got.Vulnerabilities[0].Reachable {
		t.Errorf("%+v", got.Vulnerabilities)
	}
}
