package recommend

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// No setting of any safeguard is looser than what is in force, each is one that people can write, and each claim it leads
// to is known to be its safeguard's.
func TestSettingsOnlyTighten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var claims []policy.Claim
		for _, s := range evidence.Safeguards {
			lever, own := levers[s]
			if own && rapid.Bool().Draw(t, "decided") {
				v := policy.Value(rapid.IntRange(0, 3000).Draw(t, "value"))
				if words := lever.key.Words(); words != nil {
					v = policy.Value(rapid.IntRange(0, len(words)-1).Draw(t, "word"))
				}
				claims = append(claims, policy.Claim{Key: lever.key, Value: v, Origin: policy.Origin{Author: policy.Request}})
			}
		}
		claims = append(claims, policy.Claim{Key: policy.KeySyscalls.Member("ptrace"), Value: policy.SyscallDeny, Origin: policy.Origin{Author: policy.Request}})
		now := policy.Merge(policy.Input{Claims: claims})
		k := Known{Prediction: workload.Prediction{Runs: 9, Seen: map[string]int{"socket": 3}, Destinations: []string{"tcp/10.0.0.1:5432", "udp/[2001:db8::1]:53", "x"}},
			NameServers: []string{"10.0.0.53", "10.0.0.1"}}
		for _, s := range evidence.Safeguards {
			for name, value := range Settings(s, k, []string{"bpf", "ptrace", "socket"}, now) {
				if name == "syscalls.deny" {
					if value != "bpf" {
						t.Fatalf("%s denies %s", s, value)
					}
					continue
				}
				if name == "egress.allow" {
					if value != "10.0.0.1,10.0.0.53,2001:db8::1" {
						t.Fatalf("%s allows %s", s, value)
					}
					continue
				}
				key := policy.Key(name)
				v, err := key.Parse(value)
				if err != nil || v >= now.Value(key, policy.Unlimited) {
					t.Fatalf("%s sets %s to %s, it was %s: %v", s, name, value, key.Format(now.Value(key, policy.Unlimited)), err)
				}
				if of, setting, known := SafeguardOf(policy.Claim{Key: key}); !known || of != s || setting != name {
					t.Fatalf("%s is taken for %s, %s", name, of, setting)
				}
			}
		}
	})
}

// The table decides about a running container as about one that is to be created, without what only a start can do, and
// what stops it stands where the site wrote it.
func TestTableResponds(t *testing.T) {
	k := Known{Prediction: workload.Prediction{Runs: 9, Unseen: 0.05}, Risk: risk.Assess(risk.Input{
		Techniques: []evidence.Technique{{Confidence: 0.95, Severity: 0.95}},
	})}
	table := DefaultTable()
	wanted, trade := table.Respond(k)
	if len(wanted) == 0 || !slices.Equal(wanted, trade.Chosen()) || slices.Contains(wanted, evidence.SafeguardWatch) || slices.Contains(wanted, evidence.SafeguardNoNewPrivs) {
		t.Errorf("%v", wanted)
	}
	table.Levels = map[evidence.Level][]evidence.Safeguard{evidence.Critical: {evidence.SafeguardFreeze}}
	if wanted, _ = table.Respond(k); !slices.Equal(wanted, []evidence.Safeguard{evidence.SafeguardFreeze}) {
		t.Errorf("%v", wanted)
	}
	k.Risk = risk.Of(nil)
	if wanted, _ = table.Respond(k); len(wanted) > 0 {
		t.Errorf("%v", wanted)
	}
}

func TestWhy(t *testing.T) {
	r := risk.Assess(risk.Input{
		Sinks: []evidence.Sink{{Kind: "miner", Severity: 0.8, Why: strings.Repeat("x", 500)}}, Contacts: []evidence.Contact{{Confidence: 0.9, Destination: "tcp/192.0.2.1:1"}},
		Techniques: []evidence.Technique{{Confidence: 0.1, Severity: 0.1}}, Known: true,
	})
	why := Why(r)
	if len(why) > 700 || !strings.HasPrefix(why, "risk critical, ") || !strings.Contains(why, "resource sinks") || !strings.HasSuffix(why, ", 1 more") {
		t.Errorf("%q", why)
	}
	if why := Why(risk.Of(nil)); why != "risk low, 0 of 100" {
		t.Errorf("%q", why)
	}
}

// What was reached before stays allowed: an address with all its ports, a name with its own.
func TestReached(t *testing.T) {
	got := reached([]string{"tcp/192.0.2.1:443", "tcp/192.0.2.1:80", "udp/[2001:db8::53]:53", "tcp/www.example.com:443", "tcp/www.example.com", "unix/x", ""})
	if want := []string{"192.0.2.1", "2001:db8::53", "www.example.com:443"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
