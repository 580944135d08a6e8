package config

import (
	"path/filepath"
	"strings"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// Egress is how outbound requests are decided. Without Rules or Remote there is no egress policy, and nothing changes for containers.
type Egress struct {
	Rules   string        // directory of rule files, or RulesStore; "": none of this node's own
	PDP     string        // PDPLocal or PDPRemote
	Remote  Central       // with PDPRemote: the daemon that decides
	Serve   CentralServer // for which other nodes this daemon decides; no Listen: none
	Default flow.Profile  // where no rule applies
	Inspect []Inspection  // through which tunnel risky containers go
	Uplinks []Uplink      // on which classes have an order
	Lookups flow.Profile  // where none applies to a query for a name
	Data    string        // the class of data that is unknown; "": the strictest of those that rules name
	Grace   time.Duration // for how long decisions that are known hold once the daemon, or the central one, is away
	Interception
}

// RulesStore, in place of a directory, says that the rules are in the daemon's store, where forefend policy push puts them.
const RulesStore = "store"

// Stored tells whether the rules are in the daemon's store.
func (e *Egress) Stored() bool { return e.Rules == RulesStore }

// Inspection has containers from a risk on use one tunnel, or one of a class.
type Inspection struct {
	Risk     int
	Endpoint string
}

// Uplink is a device by which the node reaches the world.
type Uplink struct {
	Device string
	Rate   int64 // bytes a second that it may send
}

func (c *Config) readEgress(t *table) {
	t.rules(&c.Egress.Rules)
	if d := t.sub("default"); len(d.values) > 0 {
		c.Egress.Default = d.outcome(nil)
		d.rest()
	}
	if d := t.sub("lookups"); len(d.values) > 0 {
		c.Egress.Lookups = d.outcome(nil)
		d.rest()
	}
	if t.text("default_data", &c.Egress.Data) {
		t.boundedText("default_data", c.Egress.Data, 64)
	}
	for _, one := range t.subs("inspect") {
		i := Inspection{Risk: 70}
		one.integer("risk", &i.Risk, 1, 100)
		if one.endpoint("endpoint", &i.Endpoint); i.Endpoint == "" {
			one.problem(one.path, `write endpoint = "inspection", the name of a [[tunnel]] or of a class`, "names no tunnel")
		}
		one.rest()
		c.Egress.Inspect = append(c.Egress.Inspect, i)
	}
	c.readUplinks(t)
	t.duration("pdp_grace", &c.Egress.Grace, 0, time.Hour)
	c.readCentral(t)
	t.readInterception(&c.Egress.Interception)
	t.rest()
}

// leastUplink is the least rate of an uplink, in bytes a second: below, a packet of the class with the least certain part takes longer than
// anybody waits.
const leastUplink = 1_000_000 / 8

func (c *Config) readUplinks(t *table) {
	names := make(map[string]bool)
	for _, one := range t.subs("uplink") {
		var u Uplink
		if one.text("device", &u.Device); !validDevice(u.Device) {
			one.problem(one.at("device"), `write device = "eth0", as ip link lists it`, "%.60q is no device of a node's", u.Device)
		} else if names[u.Device] {
			one.problem(one.at("device"), "keep one [[egress.uplink]] for each device", "an uplink above is %s too", short(u.Device))
		}
		names[u.Device] = true
		var rate string
		one.text("rate", &rate)
		var ok bool
		if u.Rate, ok = parseRate(rate); !ok || u.Rate < leastUplink {
			one.problem(one.at("rate"), `write bits a second with a unit, as "950mbit", 1mbit at least`, "%.60q is not a rate of an uplink", rate)
		}
		one.rest()
		c.Egress.Uplinks = append(c.Egress.Uplinks, u)
	}
	if len(c.Egress.Uplinks) > 0 && len(c.Tunnels) == 0 {
		t.problem(t.at("uplink"), `add a [[tunnel]], kind = "direct" at least, or remove it`, "is kept by forefend tunneld, which runs where there are tunnels")
	}
}

// validDevice tells whether a network device may have that name (dev_valid_name in Linux), and may be an uplink.
func validDevice(name string) bool {
	return len(name) > 0 && len(name) < 16 && name != "." && name != ".." && name != "lo" &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' || r == ':' })
}

// rules reads where the rules are.
func (t *table) rules(into *string) {
	var s string
	switch {
	case !t.text("rules", &s):
	case s == "" || s == RulesStore:
		*into = s
	case !filepath.IsAbs(s) || strings.ContainsAny(s, "\x00\n"):
		t.problem(t.at("rules"), `write an absolute path such as "/etc/forefend/rules", "store" for what forefend policy push puts there, or "" for none`,
			"%.60q is not an absolute path", s)
	default:
		*into = filepath.Clean(s)
	}
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
