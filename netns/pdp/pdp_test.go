package pdp

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
	"pgregory.net/rapid"

	"forefend.dev/forefend/netns/flow"
)

// example are the rules of docs/egress.md.
var example = []Rule{
	{Name: "admin-confidential", Source: "a.toml:1", When: `user == "admin" && data == "confidential"`,
		Profile: flow.Profile{Encryption: flow.Strong, Dedicated: true}},
	{Name: "public-reads", Source: "a.toml:4", When: `operation == "read" && data == "public"`},
	{Name: "payments", Source: "a.toml:7", When: `host == "pay.example.com" || host.endsWith(".pay.example.com")`,
		Profile: flow.Profile{Encryption: flow.Standard, Rates: []flow.Rate{{Bytes: 6_250_000, Scope: flow.PerRule}}}},
}

var noon = Moment{Now: time.Date(2026, 1, 1, 12, 0, 0, 500, time.UTC)}

func compiled(t testing.TB, o Options, rules ...Rule) *Set {
	t.Helper()
	s, problems := Compile(rules, o)
	if problems != nil {
		t.Fatalf("%+v", problems)
	}
	return s
}

// of makes a rule of a condition that wants strong encryption.
func of(when string) Rule {
	return Rule{Name: "it", Source: "f.toml:1", When: when, Profile: flow.Profile{Encryption: flow.Strong}}
}

func matched(d flow.Decision) string {
	var names []string
	for _, m := range d.Matches {
		names = append(names, m.Rule)
	}
	return strings.Join(names, " ")
}

// TestExample decides by the three rules and each pair of them.
func TestExample(t *testing.T) {
	s := compiled(t, Options{Default: flow.Profile{Encryption: flow.Standard}, Data: "confidential"}, example...)
	admin := flow.Context{User: "admin", UserProof: flow.Verified, Workload: "web", Operation: flow.Read, Data: "public"}
	with := func(change func(*flow.Context)) flow.Context {
		c := admin
		change(&c)
		return c
	}
	for name, test := range map[string]struct {
		context flow.Context
		want    flow.Profile
		rules   string
		says    string
	}{
		"none": {with(func(c *flow.Context) { c.Data = "internal" }), flow.Profile{Encryption: flow.Standard}, "",
			"no rule applies: encryption standard by the default"},
		"reads": {admin, flow.Profile{}, "public-reads", "encryption none by public-reads"},
		"admin, unknown data": {with(func(c *flow.Context) { c.Data = "" }), flow.Profile{Encryption: flow.Strong, Dedicated: true}, "admin-confidential",
			"encryption strong by admin-confidential, dedicated by admin-confidential"},
		"reads of payments": {with(func(c *flow.Context) { c.Host = "a.pay.example.com" }),
			flow.Profile{Encryption: flow.Standard, Rates: []flow.Rate{{Bytes: 6_250_000, Scope: flow.PerRule, Rule: "payments"}}}, "public-reads payments",
			"encryption standard by payments over public-reads, 50mbit per rule by payments"},
		"admin at payments": {with(func(c *flow.Context) { c.Host, c.Data = "pay.example.com", "confidential" }),
			flow.Profile{Encryption: flow.Strong, Dedicated: true, Rates: []flow.Rate{{Bytes: 6_250_000, Scope: flow.PerRule, Rule: "payments"}}},
			"admin-confidential payments", "encryption strong by admin-confidential over payments"},
		"only says that it is admin": {with(func(c *flow.Context) { c.UserProof, c.Data = flow.Claimed, "confidential" }),
			flow.Profile{Encryption: flow.Strong, Dedicated: true}, "admin-confidential", "the strictest of 2 readings"},
		"the workload is called so": {with(func(c *flow.Context) { c.UserProof, c.Data, c.User, c.Workload = "", "confidential", "x", "admin" }),
			flow.Profile{Encryption: flow.Strong, Dedicated: true}, "admin-confidential", "strong"},
	} {
		t.Run(name, func(t *testing.T) {
			d := s.Decide(&test.context, noon)
			if fmt.Sprintf("%+v", d.Profile) != fmt.Sprintf("%+v", test.want) || matched(d) != test.rules || !strings.Contains(d.Reason, test.says) {
				t.Errorf("got %+v by %q: %s", d.Profile, matched(d), d.Reason)
			}
			if test.rules == "payments" && d.Matches[0].Reason != "a.toml:7: "+example[2].When {
				t.Error(d.Matches)
			}
		})
	}
}

// TestClaim: what is only claimed never lowers what holds without it, whatever the rules say.
func TestClaim(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chanceOf(t)
		s, problems := Compile(c.rules(8), Options{Default: c.profile()})
		if problems != nil {
			t.Fatal(problems)
		}
		x, at := c.context(), c.moment()
		x.UserProof = flow.Claimed
		claimed := s.Decide(&x, at).Profile
		x.UserProof = flow.Workload
		if silent := s.Decide(&x, at).Profile; fmt.Sprint(Join(claimed, silent)) != fmt.Sprint(claimed) {
			t.Errorf("claimed %+v, silent %+v", claimed, silent)
		}
	})
}

// TestUnknownData: a request whose class of data is unknown gets nothing that one of the classes would not.
// A host that nothing speaks for but the request raises what is demanded, and never lowers it; one that is not checked is believed.
func TestClaimedHost(t *testing.T) {
	s := compiled(t, Options{Default: flow.Profile{Deny: true}},
		Rule{Name: "files", When: `host == "files"`},
		Rule{Name: "pay", When: `host == "pay" || host == ""`, Profile: flow.Profile{Encryption: flow.Strong}},
		Rule{Name: "admin", When: `host == "open" && user == "admin" || host == "" && user == "admin"`, Profile: flow.Profile{Encryption: flow.Strong}},
	)
	for _, test := range []struct {
		host  string
		proof flow.Proof
		want  string // rules, and what they lead to
	}{
		{"files", "", "files none"},
		{"files", flow.Answered, "files none"},
		{"files", flow.Certified, "files none"},
		{"files", flow.Claimed, "files pay strong"},
		{"pay", flow.Claimed, "pay strong"},
		{"other", flow.Claimed, "pay deny"},
	} {
		d := s.Decide(&flow.Context{Host: test.host, HostProof: test.proof}, noon)
		got := matched(d) + " " + d.Profile.Encryption.String()
		if d.Profile.Deny {
			got = matched(d) + " deny"
		}
		if got != test.want || !slices.Contains(d.Depends, flow.FieldHostProof) {
			t.Errorf("%s by %q: %s, want %s: %+v", test.host, test.proof, got, test.want, d)
		}
	}
	both := flow.Context{Host: "open", HostProof: flow.Claimed, User: "admin", UserProof: flow.Claimed, Workload: "web"}
	if d := s.Decide(&both, noon); !d.Profile.Deny || !strings.Contains(d.Reason, "4 readings") {
		t.Errorf("%+v", d)
	}
	unasked := compiled(t, Options{}, Rule{Name: "a", When: `port == 1`})
	if d := unasked.Decide(&both, noon); strings.Contains(d.Reason, "readings") {
		t.Errorf("read again although nobody asks for the host: %+v", d)
	}
}

// A host that is one of several names: what no rule says of one of them takes nothing away, what rules say of several is merged, and what is only
// claimed raises.
func TestNames(t *testing.T) {
	deny := flow.Profile{Deny: true}
	s := compiled(t, Options{Default: deny},
		Rule{Name: "files", When: `host == "files"`},
		Rule{Name: "pay", When: `host == "pay"`, Profile: flow.Profile{Encryption: flow.Strong}},
		Rule{Name: "both", When: `host.endsWith(".both")`},
		Rule{Name: "evil", When: `host == "evil"`, Profile: deny},
		Rule{Name: "wrong", When: `host == "wrong" && host.size() / 0 == 1`},
		Rule{Name: "eu", When: `host == "eu"`, Profile: flow.Profile{Endpoint: "eu"}},
		Rule{Name: "us", When: `host == "us"`, Profile: flow.Profile{Endpoint: "us"}},
	)
	for _, test := range []struct {
		names string
		proof flow.Proof
		want  string // rules, what they lead to, and how many readings that took
	}{
		{"files other", flow.Answered, "files none 1"},
		{"other files", flow.Answered, "files none 1"},
		{"a.both b.both", flow.Answered, "both none 1"},
		{"a.both files", flow.Answered, "both files none 2"},
		{"files other pay", flow.Answered, "files pay strong 2"},
		{"evil files", flow.Answered, "evil files deny 2"},
		{"files wrong", flow.Answered, "files wrong deny 2"},
		{"eu other us", flow.Answered, "eu us deny 2"},
		{"else other", flow.Answered, "deny 1"},
		{"files other", "", "files none 1"},
		{"files other", flow.Claimed, "files deny 2"},
		{"else other", flow.Claimed, "deny 2"},
		{"files evil", flow.Claimed, "files evil deny 3"},
	} {
		d := s.Decide(&flow.Context{Names: strings.Fields(test.names), HostProof: test.proof}, noon)
		got := d.Profile.Encryption.String()
		if d.Profile.Deny {
			got = "deny"
		}
		readings := 1
		if _, after, ok := strings.Cut(d.Reason, "the strictest of "); ok {
			_, _ = fmt.Sscan(after, &readings)
		}
		if got = strings.TrimSpace(fmt.Sprint(matched(d), " ", got, " ", readings)); got != test.want || !slices.Contains(d.Depends, flow.FieldHost) {
			t.Errorf("%s by %q: %s, want %s: %+v", test.names, test.proof, got, test.want, d)
		}
	}
	if d := s.Decide(&flow.Context{Host: "files", Names: []string{"evil", "pay"}}, noon); matched(d) != "files" {
		t.Errorf("a host that is said is not one of names: %+v", d)
	}
	many := make([]string, flow.MaxNames+1)
	for i := range many {
		many[i] = "files"
	}
	if d := s.Decide(&flow.Context{Names: many}, noon); !d.Profile.Deny || !slices.Equal(d.Depends, []flow.Field{flow.FieldHost}) {
		t.Errorf("too many: %+v", d)
	}
	unasked := compiled(t, Options{}, Rule{Name: "a", When: `port == 1`})
	if d := unasked.Decide(&flow.Context{Names: []string{"a", "b"}, HostProof: flow.Claimed}, noon); strings.Contains(d.Reason, "readings") || slices.Contains(d.Depends, flow.FieldHost) {
		t.Errorf("nobody asks for the host: %+v", d)
	}
	// With each class of data, and with and without a user who is claimed, they are the same.
	classes := compiled(t, Options{Default: deny}, Rule{Name: "any", When: `host != "x" || user == "root"`},
		Rule{Name: "secret", When: `host == "pay" && data == "secret"`, Profile: flow.Profile{Encryption: flow.Strong}})
	if d := classes.Decide(&flow.Context{Names: []string{"pay", "x"}, HostProof: flow.Claimed, User: "root", UserProof: flow.Claimed}, noon); matched(d) != "any secret" ||
		d.Profile.Encryption != flow.Strong {
		t.Errorf("%+v", d)
	}
	// What the site adds holds whatever the name that it is for.
	inspect := []Rule{{Name: "inspect", When: "risk >= 70", Profile: flow.Profile{Endpoint: "inspection"}}, {Name: "look", When: `host == "other"`, Profile: flow.Profile{Dedicated: true}},
		{Name: "late", When: `host == "zz"`, Profile: flow.Profile{QoS: flow.QoSBulk}}}
	amended := compiled(t, Options{Default: deny, Data: "x", Amend: inspect}, Rule{Name: "files", When: `host == "files"`})
	d := amended.Decide(&flow.Context{Names: []string{"files", "other", "zz"}, Risk: 80}, noon)
	if want := (flow.Profile{Endpoint: "inspection", Dedicated: true, QoS: flow.QoSBulk}); !reflect.DeepEqual(d.Profile, want) {
		t.Errorf("%+v", d)
	}
	if d := amended.Decide(&flow.Context{Names: []string{"other", "files"}, Risk: 80}, noon); d.Profile.Deny || !d.Profile.Dedicated || d.Profile.Endpoint != "inspection" {
		t.Errorf("%+v", d)
	}
	if d := amended.Decide(&flow.Context{Names: []string{"a", "other"}}, noon); !d.Profile.Deny || matched(d) != "look" {
		t.Errorf("%+v", d)
	}
}

// Where no rule applies, queries for names have a default of their own.
func TestLookups(t *testing.T) {
	rules := []Rule{{Name: "secret", When: `host == "secret"`, Profile: flow.Profile{Deny: true}}}
	query, other := flow.Context{Protocol: flow.DNS, Host: "www"}, flow.Context{Protocol: flow.TLS, Host: "www"}
	s := compiled(t, Options{Default: flow.Profile{Deny: true}, Lookups: &flow.Profile{}}, rules...)
	d := s.Decide(&query, noon)
	if d.Profile.Deny || d.Reason != "no rule applies: encryption none by the default of lookups" || !slices.Contains(d.Depends, flow.FieldProtocol) {
		t.Errorf("%+v", d)
	}
	if d := s.Decide(&other, noon); !d.Profile.Deny || !slices.Contains(d.Depends, flow.FieldProtocol) {
		t.Errorf("%+v", d)
	}
	query.Host = "secret"
	if d := s.Decide(&query, noon); !d.Profile.Deny || slices.Contains(d.Depends, flow.FieldProtocol) {
		t.Errorf("%+v", d)
	}
	query.Host = "www"
	if d := compiled(t, Options{Default: flow.Profile{Deny: true}}, rules...).Decide(&query, noon); !d.Profile.Deny {
		t.Errorf("%+v", d)
	}
}

func TestUnknownData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chanceOf(t)
		s, problems := Compile(c.rules(8), Options{Default: c.profile()})
		if problems != nil {
			t.Fatal(problems)
		}
		x, at := c.context(), c.moment()
		x.Data = ""
		unknown := s.Decide(&x, at).Profile
		for _, class := range s.classes {
			if x.Data = class; class == "" {
				continue
			}
			if known := s.Decide(&x, at).Profile; fmt.Sprint(Join(unknown, known)) != fmt.Sprint(unknown) {
				t.Errorf("unknown %+v, as %s %+v", unknown, class, known)
			}
		}
	})
	s := compiled(t, Options{Default: flow.Profile{Deny: true}}, of(`data.startsWith("top") && user == "x"`), Rule{Name: "list", When: `["a", "b"].exists(c, c == data) || data in ["p", user]`})
	if !slices.Equal(s.classes, []string{"p", "top"}) {
		t.Errorf("%q", s.classes)
	}
	// Without a rule that asks, nobody reads twice.
	s = compiled(t, Options{}, of(`user == "x"`))
	if d := s.Decide(&flow.Context{}, noon); strings.Contains(d.Reason, "readings") || slices.Contains(d.Depends, flow.FieldData) {
		t.Errorf("%+v", d)
	}
}

// TestLabel: what a workload claims of its data raises what holds for requests that say nothing, and never lowers it.
func TestLabel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chanceOf(t)
		s, problems := Compile(c.rules(8), Options{Default: c.profile(), Data: rapid.SampledFrom([]string{"", "public", "p"}).Draw(t, "default")})
		if problems != nil {
			t.Fatal(problems)
		}
		x, at := c.context(), c.moment()
		class := rapid.SampledFrom(append([]string{"public", "of no rule"}, s.classes...)).Draw(t, "label")
		if class == "" {
			class = "public"
		}
		said := x.Data
		x.Data = ""
		silent := s.Decide(&x, at).Profile
		x.Label = class
		labelled := s.Decide(&x, at).Profile
		x.Label, x.Data = "", class
		if want := Join(silent, s.Decide(&x, at).Profile); fmt.Sprint(labelled) != fmt.Sprint(Join(want, want)) {
			t.Errorf("labelled %s: %+v, want %+v (silent: %+v)", class, labelled, want, silent)
		}
		if x.Data = said; said != "" { // a request that says it itself is decided by that
			without := s.Decide(&x, at)
			if x.Label = class; fmt.Sprint(s.Decide(&x, at)) != fmt.Sprint(without) {
				t.Errorf("the label %s changes what is decided of %s", class, said)
			}
		}
	})
	s := compiled(t, Options{Data: "public"}, Rule{Name: "secret", When: `data == "confidential"`, Profile: flow.Profile{Encryption: flow.Strong}})
	if d := s.Decide(&flow.Context{}, noon); d.Profile.Encryption != flow.None {
		t.Errorf("%+v", d)
	}
	if d := s.Decide(&flow.Context{Label: "confidential"}, noon); d.Profile.Encryption != flow.Strong || !strings.Contains(d.Reason, "the strictest of 2 readings") {
		t.Errorf("%+v", d)
	}
}

// TestJoinLaws of what merges.
func TestJoinLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chanceOf(t)
		profile := func() flow.Profile { p := c.profile(); return Join(p, p) }
		x, y, z := profile(), profile(), profile()
		same := func(law string, a, b flow.Profile) {
			if fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("%s: %+v, %+v of %+v, %+v, %+v", law, a, b, x, y, z)
			}
		}
		same("idempotent", Join(x, x), x)
		same("commutative", Join(x, y), Join(y, x))
		same("associative", Join(Join(x, y), z), Join(x, Join(y, z)))
		joined := Join(x, y)
		if joined.Deny {
			return
		}
		if joined.Encryption < max(x.Encryption, y.Encryption) || (x.Dedicated || y.Dedicated) && !joined.Dedicated || x.Deny || y.Deny {
			t.Errorf("%+v of %+v and %+v", joined, x, y)
		}
		for _, r := range slices.Concat(x.Rates, y.Rates) {
			if !slices.ContainsFunc(joined.Rates, func(j flow.Rate) bool {
				return j.Scope == r.Scope && (r.Bytes == 0 || j.Bytes > 0 && j.Bytes <= r.Bytes)
			}) || !slices.ContainsFunc(joined.Rates, func(j flow.Rate) bool {
				return j.Scope == r.Scope && (r.Requests == 0 || j.Requests > 0 && j.Requests <= r.Requests)
			}) {
				t.Errorf("%+v of %+v and %+v loosens %+v", joined, x, y, r)
			}
		}
	})
}

func chanceOf(t *rapid.T) chance { return newChance(rapid.Uint64().Draw(t, "seed")) }

func TestReasons(t *testing.T) {
	a := Rule{Name: "a", When: "true", Profile: flow.Profile{Endpoint: "eu", QoS: flow.QoSBulk, Rates: []flow.Rate{{Requests: 10, Bytes: 125, Scope: flow.PerUser}}}}
	b := Rule{Name: "b", When: "true", Profile: flow.Profile{Endpoint: "us"}}
	bad := Rule{Name: "bad", When: "1 / risk == 1"}
	deny := Rule{Name: "deny", When: "risk == 1", Profile: flow.Profile{Deny: true, Dedicated: true}}
	for says, test := range map[string]struct {
		rules   []Rule
		profile string
	}{
		"encryption none by a, endpoint eu by a, 1kbit and 10/s per user by a, qos bulk by a": {[]Rule{a}, `eu`},
		"denied: no tunnel has two endpoints: a wants eu, b wants us":                         {[]Rule{a, b}, "true"},
		"denied by bad; cannot be evaluated: bad":                                             {[]Rule{bad, a}, "true"},
	} {
		d := compiled(t, Options{}, test.rules...).Decide(&flow.Context{}, noon)
		if d.Reason != says || !strings.Contains(fmt.Sprint(d.Profile), test.profile) {
			t.Errorf("%+v", d)
		}
	}
	d := compiled(t, Options{}, deny).Decide(&flow.Context{Risk: 1}, noon)
	if d.Reason != "denied by deny" || !d.Profile.Deny || d.Profile.Dedicated {
		t.Errorf("%+v", d)
	}
	long := of("user == \"" + strings.Repeat("ä", 200) + "\" ||\n true")
	if d := compiled(t, Options{}, long).Decide(&flow.Context{}, noon); len(d.Matches[0].Reason) > 200 || !strings.HasSuffix(d.Matches[0].Reason, "…") {
		t.Errorf("%q", d.Matches)
	}
	if got := BitsText(1); got != "8bit" {
		t.Error(got)
	}
}

// TestDepends: what nobody looked at is not depended on.
func TestDepends(t *testing.T) {
	s := compiled(t, Options{Data: "x"},
		Rule{Name: "a", When: `host == "api" && path.startsWith("/v1")`},
		Rule{Name: "b", When: `host == "db" && process.executable == "/bin/psql" && process.pid > 1`},
	)
	for host, want := range map[string]string{"x": "[host host_proof]", "api": "[host host_proof path]", "db": "[host host_proof process]"} {
		c := flow.Context{Host: host, Process: &flow.Process{Executable: "/bin/psql"}}
		if d := s.Decide(&c, noon); fmt.Sprint(d.Depends) != want {
			t.Errorf("%s: %v", host, d.Depends)
		}
	}
	// A process that was not looked up is not taken for none.
	d := s.Decide(&flow.Context{Host: "db"}, noon)
	if !d.Profile.Deny || !slices.Contains(d.Depends, flow.FieldProcess) || !strings.Contains(d.Reason, "process") {
		t.Errorf("%+v", d)
	}
	if d := s.Decide(&flow.Context{Host: "api"}, noon); d.Profile.Deny || !s.Asks(flow.FieldProcess) || s.Asks(flow.FieldRisk) || s.Len() != 2 {
		t.Errorf("%+v", d)
	}
}

func TestValid(t *testing.T) {
	at := time.Date(2026, 6, 1, 12, 7, 30, 250_000_000, time.UTC)
	for when, want := range map[string]time.Duration{
		`now.getHours() < 6`:                                  7*time.Minute + 29*time.Second + 750*time.Millisecond,
		`now.getDayOfWeek("Europe/Berlin") == 0`:              7*time.Minute + 29*time.Second + 750*time.Millisecond,
		`now.getHours("+01:07") < 6`:                          750 * time.Millisecond,
		`now.getHours(user) < 6`:                              750 * time.Millisecond,
		`now.getMinutes() < 30`:                               29*time.Second + 750*time.Millisecond,
		`now.getSeconds() < 30`:                               750 * time.Millisecond,
		`now > timestamp("2026-06-01T12:10:00Z")`:             2*time.Minute + 29*time.Second + 750*time.Millisecond,
		`timestamp("2026-06-01T12:07:30Z") >= now`:            750 * time.Millisecond,
		`now < timestamp("2020-01-01T00:00:00Z")`:             0,
		`now < timestamp(1780000000)`:                         750 * time.Millisecond,
		`now < timestamp(user)`:                               750 * time.Millisecond,
		`now - duration("1h") > timestamp(0)`:                 750 * time.Millisecond,
		`load > 50`:                                           time.Second,
		`load > 50 || now.getSeconds() == 0`:                  750 * time.Millisecond,
		`user == "x"`:                                         0,
		`user == "x" && now.getSeconds() == 0`:                0, // never looked at
		`[1, 2].exists(i, i == now.getSeconds())`:             750 * time.Millisecond,
		`now == timestamp("2026-06-01T12:07:30Z")`:            750 * time.Millisecond,
		`now < timestamp("2026-06-01T12:07:30.5Z")`:           250 * time.Millisecond,
		`timestamp(user) < timestamp("2020-01-01T00:00:00Z")`: 0,
	} {
		s := compiled(t, Options{}, of(when))
		c := flow.Context{User: "2026-01-01T00:00:00Z", UserProof: flow.Verified}
		if d := s.Decide(&c, Moment{Now: at}); d.Valid != want {
			t.Errorf("%s: valid for %s, want %s", when, d.Valid, want)
		}
	}
}

func TestProblems(t *testing.T) {
	many := make([]Rule, MaxRules+1)
	classes := make([]Rule, maxClasses+1)
	for i := range classes {
		classes[i] = Rule{Name: fmt.Sprint(i), When: fmt.Sprintf(`data == "class-%d"`, i)}
	}
	for name, test := range map[string]struct {
		rules  []Rule
		offset int
		says   string
	}{
		"too many":       {many, -1, "10001 rules"},
		"no name":        {[]Rule{{When: "true"}}, -1, "needs a name"},
		"twice":          {[]Rule{of("true"), of("true")}, -1, "taken by the rule at f.toml:1"},
		"unknown word":   {[]Rule{of("true &&\n  usr == 'x'")}, 10, "undeclared reference to 'usr'"},
		"syntax":         {[]Rule{of("user ==")}, 7, "Syntax error"},
		"type":           {[]Rule{of("risk == 'high'")}, 5, "no matching overload"},
		"after a letter": {[]Rule{of("'ü' == usr")}, 8, "undeclared"},
		"not a question": {[]Rule{of("user")}, 0, "of type string"},
		"too long":       {[]Rule{of("true || " + strings.Repeat(" ", MaxCondition))}, 0, "the most is 4096"},
		"too deep":       {[]Rule{of(strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100))}, -2, "recursion"},
		"too costly":     {[]Rule{of("[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, path.contains(user)))))")}, 0, "may cost"},
		"not a network":  {[]Rule{of(`destination.within("10.0.0.0")`)}, 19, "no '/'"},
		"network's host": {[]Rule{of(`destination.within("10.0.0.1/8")`)}, 19, "write 10.0.0.0/8"},
		"any network":    {[]Rule{of(`destination.within(user) || user.within("x")`)}, 19, "takes a network as text"},
		"regex":          {[]Rule{of(`user.matches("(")`)}, 13, "invalid matches argument"},
		"many classes":   {classes, -1, "33 classes of data"},
		"reserved":       {[]Rule{of(`namespace == "x"`)}, 0, "reserved identifier"},
	} {
		t.Run(name, func(t *testing.T) {
			s, problems := Compile(test.rules, Options{})
			if s != nil || len(problems) != 1 || !strings.Contains(problems[0].Message, test.says) || test.offset != -2 && problems[0].Offset != test.offset {
				t.Errorf("%+v", problems)
			}
		})
	}
}

// TestAddresses: an address is one however it is written on the wire, and text that is no address equals none.
func TestAddresses(t *testing.T) {
	for when, want := range map[string]bool{
		`matches(user, "^$")`:                        true,
		`user.startsWith(host)`:                      true,
		`destination == "10.0.0.1"`:                  true,
		`destination in ["1.1.1.1", "10.0.0.1"]`:     true,
		`destination == "::ffff:10.0.0.1"`:           false,
		`destination == "nonsense"`:                  false,
		`destination != "nonsense"`:                  true,
		`destination == ""`:                          false,
		`destination.within("10.0.0.0/24")`:          true,
		`!destination.within("11.0.0.0/24")`:         true,
		`user.within("10.0.0.0/24")`:                 false,
		`"10.0.0.1".within("10.0.0.0/24")`:           true,
		`destination.startsWith("10.0")`:             true,
		`port == 443 && risk < -9223372036854775807`: false,
	} {
		c := flow.Context{Destination: netip.MustParseAddrPort("[::ffff:10.0.0.1]:443")}
		if got := matched(compiled(t, Options{}, of(when)).Decide(&c, noon)) == "it"; got != want {
			t.Errorf("%s is %v", when, got)
		}
	}
	nowhere := compiled(t, Options{}, of(`destination == "" && port == 0`))
	if matched(nowhere.Decide(&flow.Context{}, noon)) != "it" {
		t.Error("no address is not the empty text")
	}
	// Integers at the ends of their range.
	for when, want := range map[string]bool{
		`risk < -9223372036854775808`: false, `risk > 9223372036854775807`: false, `risk >= -9223372036854775808`: true, `risk <= 9223372036854775807`: true,
	} {
		if got := matched(compiled(t, Options{}, of(when)).Decide(&flow.Context{}, noon)) == "it"; got != want {
			t.Errorf("%s is %v", when, got)
		}
	}
}

// TestTree finds all beginnings of a text, and all endings.
func TestTree(t *testing.T) {
	words := []string{"abc", "ab", "abd", "ab", "x", "abcdef", "xyz"}
	var forward, backward tree
	for i, w := range words {
		forward.add(w, id(i))
		backward.add(reverse(w), id(i))
	}
	for _, text := range append(words, "abcde", "", "a", "abx", "xabc", "fxyz", "abcdefg") {
		var begins, ends []id
		for i, w := range words {
			if strings.HasPrefix(text, w) {
				begins = append(begins, id(i))
			}
			if strings.HasSuffix(text, w) {
				ends = append(ends, id(i))
			}
		}
		for got, want := range map[*[]id][]id{ptr(forward.find(text, false, nil)): begins, ptr(backward.find(text, true, nil)): ends} {
			if slices.Sort(*got); !slices.Equal(*got, want) {
				t.Errorf("%q: %v, want %v", text, *got, want)
			}
		}
	}
}

func ptr(ids []id) *[]id { return &ids }

// What conditions that passed the check never do.
func TestUnreached(t *testing.T) {
	if _, ok := (activation{&reading{}}).ResolveName("nonsense"); ok || (activation{}).Parent() != nil {
		t.Error("there is a variable called nonsense")
	}
	if got := within(types.String("10.0.0.1"), types.String("nonsense")); !types.IsError(got) {
		t.Error(got)
	}
	if got := offset("ab", 3, 1); got != 1 {
		t.Error(got)
	}
}

// TestRunaway: the evaluation of what may become expensive ends, and denies.
func TestRunaway(t *testing.T) {
	s := compiled(t, Options{}, of(`path.matches("(a+)+b") && (path + path).matches("(a|aa)+$")`))
	c := flow.Context{Path: strings.Repeat("a", 2_000_000)} // far beyond what the interceptor lets through
	if d := s.Decide(&c, noon); !d.Profile.Deny && matched(d) != "" {
		t.Errorf("%+v", d)
	}
	s = compiled(t, Options{}, of(`(path + path).matches("a+$")`))
	if d := s.Decide(&c, noon); !d.Profile.Deny || !strings.Contains(d.Matches[0].Reason, "cannot be evaluated") {
		t.Errorf("%+v", d)
	}
}

// TestMemo holds more outcomes than it may.
func TestMemo(t *testing.T) {
	var rules []Rule
	for i := range 13 {
		rules = append(rules, Rule{Name: fmt.Sprint(i), When: fmt.Sprintf("path.contains(%q)", string(rune('a'+i)))})
	}
	s := compiled(t, Options{}, rules...)
	for n := range 1 << 13 {
		var path []byte
		for i := range 13 {
			if n>>i&1 == 1 {
				path = append(path, byte('a'+i))
			}
		}
		c := flow.Context{Path: string(path)}
		if d := s.Decide(&c, noon); len(d.Matches) != len(path) {
			t.Fatalf("%q: %v", path, d.Matches)
		}
	}
	if n := len(s.memo.known); n > maxMemo {
		t.Errorf("%d outcomes are kept", n)
	}
}

// TestVersion: a decision says of which version of the rules it is, whether one of them applied or none.
func TestVersion(t *testing.T) {
	s := compiled(t, Options{Version: "7"}, Rule{Name: "a", When: `host == "a"`})
	for _, host := range []string{"a", "b"} {
		if d := s.Decide(&flow.Context{Host: host}, noon); d.RuleVersion != "7" {
			t.Errorf("%s: %+v", host, d)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	s := compiled(t, Options{Data: "confidential"}, siteRules(1000)...)
	contexts := siteContexts(64)
	for i := range contexts {
		s.Decide(&contexts[i], noon)
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() { sink = s.Decide(&contexts[i%64], noon); i++ }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestMust(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it went on")
		}
	}()
	must(0, errors.New("x"))
}

// FuzzCompile compiles anything, and decides by it.
func FuzzCompile(f *testing.F) {
	for _, r := range example {
		f.Add(r.When)
	}
	for _, when := range []string{`user.matches("a(b|c)*")`, `destination.within("10.0.0.0/8")`, `now > timestamp("2026-01-01T00:00:00Z")`, "((((", "a.b.c.d[1]{2}", `"\u00e4" in [user]`, "{1: 2}[1] == 2"} {
		f.Add(when)
	}
	f.Fuzz(func(t *testing.T, when string) {
		s, problems := Compile([]Rule{of(when)}, Options{})
		for _, p := range problems {
			if p.Offset < -1 || p.Offset > len(when) || p.Message == "" {
				t.Errorf("%+v", p)
			}
		}
		if s != nil {
			c := flow.Context{User: "admin", Host: "h", Path: "/"}
			s.Decide(&c, noon)
		}
	})
}

// What the site adds holds beside the rules that apply and beside the default, and lets nothing pass that they do not.
func TestAmend(t *testing.T) {
	inspect := Rule{Name: "inspect", Source: "config.toml", When: "risk >= 70", Profile: flow.Profile{Endpoint: "inspection"}}
	rules := []Rule{
		{Name: "open", When: `host == "a"`}, {Name: "elsewhere", When: `host == "b"`, Profile: flow.Profile{Endpoint: "eu"}},
	}
	for _, test := range []struct {
		host, want string
		risk       int
		byDefault  flow.Profile
		profile    flow.Profile
	}{
		{"a", "open", 69, flow.Profile{Deny: true}, flow.Profile{}},
		{"a", "open inspect", 70, flow.Profile{Deny: true}, flow.Profile{Endpoint: "inspection"}},
		{"b", "elsewhere inspect", 70, flow.Profile{Deny: true}, flow.Profile{Deny: true}},
		{"c", "inspect", 70, flow.Profile{Deny: true}, flow.Profile{Deny: true}},
		{"c", "inspect", 70, flow.Profile{Encryption: flow.Strong}, flow.Profile{Encryption: flow.Strong, Endpoint: "inspection"}},
		{"c", "", 0, flow.Profile{Encryption: flow.Strong}, flow.Profile{Encryption: flow.Strong}},
	} {
		s := compiled(t, Options{Default: test.byDefault, Data: "x", Amend: []Rule{inspect}}, rules...)
		d := s.Decide(&flow.Context{Host: test.host, Risk: test.risk}, noon)
		if got := matched(d); got != test.want || !reflect.DeepEqual(d.Profile, test.profile) {
			t.Errorf("%+v: %s, %+v, %s", test, got, d.Profile, d.Reason)
		}
	}
	if _, problems := Compile(rules, Options{Amend: []Rule{{Name: "open", When: "true"}}}); len(problems) != 1 || problems[0].Rule != 2 {
		t.Errorf("%+v", problems)
	}
}
