package config

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

func TestParseRules(t *testing.T) {
	f, problems := ParseRules("/etc/forefend/rules/site.toml", []byte(`
[[rule]]
name = "admin-confidential"
when = 'user == "admin" && data == "confidential"'
tunnel = { encryption = "strong", dedicated = true }

[[rule]]
name = "payments"
when = """
host == "pay.example.com" ||
  host.endsWith(".pay.example.com")"""
qos = "interactive"
[rule.tunnel]
endpoint = "eu"
rate = "50mbit"
requests = "100/s"
scope = "connection"

[[rule]]
name = "no"
when = "risk > 80"
deny = true

[[test]]
name = "admin"
context = { user = "admin", user_proof = "token", data = "confidential", destination = "10.0.0.1:443", names = ["a", "b"], risk = 3, now = 2026-01-02T03:04:05Z, load = 7, process = { executable = "/bin/x", pid = 4 } }
expect = { tunnel = { encryption = "strong", dedicated = true, endpoint = "", rate = "8kbit" }, qos = "", rules = ["admin-confidential"] }
`))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	strong, yes, none := flow.Strong, true, ""
	for i := range f.Rules {
		f.Rules[i].file, f.Rules[i].path = nil, nil
	}
	f.lines = nil
	want := &RuleFile{File: "/etc/forefend/rules/site.toml", Rules: []Rule{
		{Name: "admin-confidential", When: `user == "admin" && data == "confidential"`, Source: "site.toml:2", Profile: flow.Profile{Encryption: flow.Strong, Dedicated: true}},
		{Name: "payments", When: "host == \"pay.example.com\" ||\n  host.endsWith(\".pay.example.com\")", Source: "site.toml:7", Unsaid: true,
			Profile: flow.Profile{Endpoint: "eu", QoS: "interactive", Rates: []flow.Rate{{Bytes: 6_250_000, Requests: 100, Scope: flow.PerConnection}}}},
		{Name: "no", When: "risk > 80", Source: "site.toml:19", Unsaid: true, Profile: flow.Profile{Deny: true}},
	}, Tests: []RuleTest{{
		Name: "admin", Source: "site.toml:24", Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Load: 7,
		Context: flow.Context{Version: 1, User: "admin", UserProof: flow.Verified, Data: "confidential", Destination: netip.MustParseAddrPort("10.0.0.1:443"), Names: []string{"a", "b"}, Risk: 3,
			Process: &flow.Process{Executable: "/bin/x", PID: 4}},
		Want: Want{Encryption: &strong, Dedicated: &yes, Endpoint: &none, QoS: &none, Rate: &flow.Rate{Bytes: 1000, Scope: flow.PerRule}, Rules: []string{"admin-confidential"}},
	}}}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got\n%+v\nwant\n%+v", f, want)
	}
}

// TestRuleProblems: each line with a mark has a problem there that says so, and no other line has one.
func TestRuleProblems(t *testing.T) {
	data, err := os.ReadFile("testdata/rules/problems.toml")
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[int][]string)
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		if _, says, ok := strings.Cut(line, "#! "); ok {
			for one := range strings.SplitSeq(strings.TrimSpace(says), " | ") {
				want[n] = append(want[n], one)
			}
		}
	}
	_, problems := ParseRules("rules.toml", data)
	got := make(map[int][]string)
	for _, p := range problems {
		got[p.Line] = append(got[p.Line], fmt.Sprintf("%d: %s: %s; %s", p.Column, p.Key, p.Message, p.Fix))
	}
	for line := 1; line <= n; line++ {
		for _, w := range want[line] {
			if !strings.Contains(strings.Join(got[line], "\n"), w) {
				t.Errorf("line %d: want %q, got %q", line, w, got[line])
			}
		}
		if len(got[line]) != len(want[line]) {
			t.Errorf("line %d: %d problems, want %d: %q", line, len(got[line]), len(want[line]), got[line])
		}
	}
}

func TestRuleFileBounds(t *testing.T) {
	if _, problems := ParseRules("f", make([]byte, MaxRuleFile+1)); len(problems) != 1 || !strings.Contains(problems[0].String(), "more than 1024 KiB") {
		t.Error(problems)
	}
	if _, problems := ParseRules("f", []byte("[[rule")); len(problems) != 1 || problems[0].Line != 1 {
		t.Error(problems)
	}
}

func TestRates(t *testing.T) {
	for s, want := range map[string]int64{"50mbit": 6_250_000, "8bit": 1, "1gbit": 125_000_000, "3kbit": 375, "1000gbit": 125e9, "7bit": 0, "1001gbit": 0, "mbit": 0,
		"5": 0, "5mb": 0, "-5mbit": 0, "1.5mbit": 0, "99999999999999999999bit": 0, "": 0} {
		if got, ok := parseRate(s); ok != (want > 0) || ok && got != want {
			t.Errorf("%s is %d, %v", s, got, ok)
		}
	}
	for s, want := range map[string]int64{"100/s": 100, "600/m": 10, "61/m": 0, "0/s": 0, "100": 0, "x/s": 0, "1/h": 0, "1000001/s": 0} {
		if got, ok := parseRequests(s); ok != (want > 0) || ok && got != want {
			t.Errorf("%s is %d, %v", s, got, ok)
		}
	}
}
