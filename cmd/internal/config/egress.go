package config

import (
	"path/filepath"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Egress is how outbound requests are decided. Without Rules there is no egress policy, and nothing changes for containers.
type Egress struct {
	Rules   string        // directory of rule files; "": no egress policy
	Default flow.Profile  // where no rule applies
	Data    string        // the class of data that is unknown; "": the strictest of those that rules name
	Grace   time.Duration // for how long decisions that are known hold once the daemon is away
	Interception
}

func (c *Config) readEgress(t *table) {
	t.file("rules", &c.Egress.Rules, "/etc/forefend/rules")
	if c.Egress.Rules != "" {
		c.Egress.Rules = filepath.Clean(c.Egress.Rules)
	}
	if d := t.sub("default"); len(d.values) > 0 {
		c.Egress.Default = d.outcome(nil)
		d.rest()
	}
	if t.text("default_data", &c.Egress.Data) {
		t.boundedText("default_data", c.Egress.Data, 64)
	}
	t.duration("pdp_grace", &c.Egress.Grace, 0, time.Hour)
	t.readInterception(&c.Egress.Interception)
	t.rest()
}

// boundedText refuses what a field of a request never holds.
func (t *table) boundedText(key, s string, most int) {
	if len(s) > most || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.problem(t.at(key), "write plain text", "%.60q has more than %d bytes, or control characters", s, most)
	}
}

// outcome reads what a rule leads to: deny, or tunnel and qos. unsaid, where not nil, is set if nothing is said of encryption.
func (t *table) outcome(unsaid *bool) flow.Profile {
	var p flow.Profile
	t.flag("deny", &p.Deny)
	t.word("qos", &p.QoS, flow.QoSClasses...)
	tunnel := t.sub("tunnel")
	if !tunnel.encryption(&p.Encryption) {
		if unsaid == nil && !p.Deny {
			t.problem(t.path, `write tunnel = { encryption = "standard" } or deny = true`, "says nothing of encryption")
		} else if unsaid != nil {
			*unsaid = true
		}
	}
	tunnel.flag("dedicated", &p.Dedicated)
	tunnel.endpoint("endpoint", &p.Endpoint)
	if r, ok := tunnel.rate(); ok {
		p.Rates = []flow.Rate{r}
	}
	tunnel.rest()
	if p.Deny && (len(tunnel.values) > 0 || p.QoS != "") {
		t.problem(t.at("deny"), "remove deny, or the rest", "what is denied needs neither tunnel nor qos")
	}
	return p
}

func (t *table) encryption(into *flow.Encryption) bool {
	word := into.String()
	t.word("encryption", &word, flow.None.String(), flow.Standard.String(), flow.Strong.String())
	_ = into.UnmarshalText([]byte(word)) // it is one of these
	_, said := t.values["encryption"]
	return said
}

// endpoint reads the name of a tunnel or of a class of them.
func (t *table) endpoint(key string, into *string) {
	if !t.text(key, into) {
		return
	}
	if !validEndpoint(*into) {
		t.problem(t.at(key), "write letters, digits, dots and dashes, at most 64", "%.80q is not the name of a tunnel", *into)
	}
}

func validEndpoint(s string) bool {
	const others = "-._"
	return len(s) > 0 && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}

// rate reads the keys rate, requests and scope.
func (t *table) rate() (r flow.Rate, ok bool) {
	scope := string(flow.PerRule)
	t.word("scope", &scope, string(flow.PerConnection), string(flow.PerUser), string(flow.PerRule))
	r.Scope = flow.Scope(scope)
	var s string
	if t.text("rate", &s) {
		if r.Bytes, ok = parseRate(s); !ok {
			t.problem(t.at("rate"), `write bits a second with a unit, as "50mbit": bit, kbit, mbit or gbit, in steps of 1000`, "%.60q is not a rate from 8bit to 1000gbit", s)
		}
	}
	if t.text("requests", &s) {
		if r.Requests, ok = parseRequests(s); !ok {
			t.problem(t.at("requests"), `write requests a second or minute, as "100/s" or "600/m"`, "%.60q is not a rate from 1/s to 1000000/s", s)
		}
	}
	if _, given := t.values["scope"]; given && r.Bytes == 0 && r.Requests == 0 {
		t.problem(t.at("scope"), "add rate or requests, or remove it", "is of no use without a rate")
	}
	return r, r.Bytes > 0 || r.Requests > 0
}

// parseRate reads bits a second, as bytes.
func parseRate(s string) (bytes int64, ok bool) {
	for unit, factor := range map[string]int64{"gbit": 1e9, "mbit": 1e6, "kbit": 1e3, "bit": 1} {
		digits, has := strings.CutSuffix(s, unit)
		if n, err := atoi(digits); has && err == nil {
			bits := n * factor
			return bits / 8, bits >= 8 && bits <= 1000e9
		}
	}
	return 0, false
}

// parseRequests reads requests a second.
func parseRequests(s string) (n int64, ok bool) {
	digits, unit, _ := strings.Cut(s, "/")
	n, err := atoi(digits)
	switch {
	case err != nil:
		return 0, false
	case unit == "m" && n%60 == 0:
		n /= 60
	case unit != "s":
		return 0, false
	}
	return n, n >= 1 && n <= 1e6
}
