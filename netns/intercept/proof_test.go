package intercept

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
	"forefend.dev/forefend/netns/intercept/hello"
	"forefend.dev/forefend/netns/intercept/names"
)

func TestProof(t *testing.T) {
	one, two, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	var known names.Map
	known.Learn("files.example", names.Answer{Addresses: []netip.Addr{one}}, true, time.Now())
	known.Learn("said.example", names.Answer{Addresses: []netip.Addr{two}}, false, time.Now())
	known.Learn("a.example", names.Answer{Addresses: []netip.Addr{other}}, true, time.Now())
	known.Learn("b.example", names.Answer{Addresses: []netip.Addr{other}}, true, time.Now())
	claims, beside := netip.MustParseAddr("192.0.2.4"), netip.MustParseAddr("192.0.2.5")
	known.Learn("e.example", names.Answer{Addresses: []netip.Addr{claims, beside}}, false, time.Now())
	known.Learn("d.example", names.Answer{Addresses: []netip.Addr{claims}}, false, time.Now())
	known.Learn("f.example", names.Answer{Addresses: []netip.Addr{beside}}, true, time.Now())
	checked := Names{Resolvers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}
	for name, test := range map[string]struct {
		names    Names
		protocol flow.Protocol
		host     string
		to       netip.Addr
		want     string
	}{
		"not checked":                  {Names{}, flow.TLS, "files.example", two, "files.example "},
		"answered":                     {checked, flow.TLS, "files.example", one, "files.example answer"},
		"of HTTP":                      {checked, flow.HTTP, "files.example", one, "files.example answer"},
		"another address":              {checked, flow.TLS, "files.example", two, "files.example claim"},
		"by nobody who is believed":    {checked, flow.TLS, "said.example", two, "said.example claim"},
		"one of two names":             {checked, flow.TLS, "b.example", other, "b.example answer"},
		"an address":                   {checked, flow.HTTP, "192.0.2.1", one, "192.0.2.1 answer"},
		"an address that is not meant": {checked, flow.HTTP, "192.0.2.1", two, "192.0.2.1 claim"},
		"by a certificate":             {checked, flow.HTTP, "api.example", two, "api.example certificate"},
		"opaque":                       {checked, flow.Opaque, "", one, "files.example answer"},
		"opaque, not checked":          {Names{}, flow.Opaque, "", two, "said.example claim"},
		"opaque, two names":            {checked, flow.Opaque, "", other, "a.example or b.example answer"},
		"opaque, two claims":           {Names{}, flow.Opaque, "", claims, "d.example or e.example claim"},
		"opaque, and a claim beside":   {checked, flow.Opaque, "", beside, "f.example answer"},
		"opaque, nobody said anything": {checked, flow.Opaque, "", netip.MustParseAddr("192.0.2.99"), " "},
		"TLS without a name":           {checked, flow.TLS, "", one, "files.example answer"},
		"HTTP without a host":          {checked, flow.HTTP, "", one, " "},
	} {
		s := &Settings{Names: test.names, answers: &known, Originate: []Origination{{Host: "api.example"}}}
		c := flow.Context{Protocol: test.protocol, Host: test.host, Destination: netip.AddrPortFrom(test.to, 443)}
		s.prove(&c)
		if got := c.HostText() + " " + string(c.HostProof); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	// A mapping by one of several names raises, like that by a host that is only claimed.
	several := &Settings{Names: checked, answers: &known, Data: "secret", Mappings: []Mapping{{Host: "b.example", Data: "public", Operation: flow.Read}}}
	if c := several.ofHello(hello.Hello{}, netip.AddrPortFrom(other, 443)); c.Data != "" || c.Label != "public" || c.Operation != flow.Write {
		t.Errorf("%+v", c)
	}
	s := &Settings{Names: checked, answers: &known, Data: "secret", Mappings: []Mapping{{Host: "files.example", Data: "public", Operation: flow.Read}}}
	for to, want := range map[netip.Addr]string{one: "public  write", two: " public write"} {
		c := s.ofHello(hello.Hello{Name: "files.example"}, netip.AddrPortFrom(to, 443))
		if got := fmt.Sprintf("%s %s %s", c.Data, c.Label, c.Operation); got != want {
			t.Errorf("%s: %q, want %q", to, got, want)
		}
	}
}

// What looks names up by TLS or HTTPS is told apart, so that rules can let nobody ask other name servers.
func TestLooksUp(t *testing.T) {
	s := &Settings{Names: Names{Services: []string{"dns.example", "*.dns.example"}}}
	for want, contexts := range map[string][]flow.Context{
		flow.ServiceDNS: {
			{Protocol: flow.TLS, Destination: netip.MustParseAddrPort("192.0.2.1:853")}, {Protocol: flow.TLS, Host: "dns.example"},
			{Protocol: flow.HTTP, Host: "a.dns.example"}, {Protocol: flow.Opaque, Names: []string{"a", "dns.example"}}, {Protocol: flow.HTTP, Host: "x", Path: "/dns-query"},
		},
		"":    {{Protocol: flow.TLS, Host: "example", Destination: netip.MustParseAddrPort("192.0.2.1:443")}, {Protocol: flow.HTTP, Host: "notdns.example", Path: "/"}},
		"a.B": {{Protocol: flow.HTTP, Host: "dns.example", Service: "a.B"}},
	} {
		for _, c := range contexts {
			if s.prove(&c); c.Service != want {
				t.Errorf("%+v", c)
			}
		}
	}
}

// What is asked goes by the one that policy says, whoever was addressed; nothing is known of its data but that it is a name.
func TestOfQuery(t *testing.T) {
	to, ours := netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("10.0.0.2:53")
	q := names.Query{Host: "www.example"}
	s := &Settings{Base: flow.Context{Workload: "web"}, Mappings: []Mapping{{Host: "*.secret.example", Data: "secret"}}}
	c := s.ofQuery(q, to)
	if c.Protocol != flow.DNS || c.Destination != to || c.Host != "www.example" || c.Operation != flow.Read || c.Data != ClassName || c.Service != flow.ServiceDNS ||
		c.User != "web" || c.UserProof != flow.Workload || c.HostProof != "" {
		t.Errorf("%+v", c)
	}
	s.Names.Resolver = ours
	q.Write = true
	q.Host = "x.secret.example"
	if c := s.ofQuery(q, to); c.Destination != ours || c.Operation != flow.Write || c.Data != "secret" || !s.listed(ours.Addr()) || s.listed(to.Addr()) {
		t.Errorf("%+v", c)
	}
}

// A container's own policy says whom it may contact at all: by addresses, and by names.
func TestContacts(t *testing.T) {
	to := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	net := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	closed := Contacts{
		Closed: true, Allow: net("10.0.0.0/8"), Block: net("10.9.0.0/16"), AllowNames: []document.Name{{Host: "*.example", Port: 443}, {Host: "db"}},
		BlockNames: []document.Name{{Host: "ads.example"}},
	}
	for name, test := range map[string]struct {
		contacts Contacts
		c        flow.Context
		want     string
	}{
		"open":                 {Contacts{}, flow.Context{Destination: to("192.0.2.1:80")}, ""},
		"off":                  {Contacts{Off: true}, flow.Context{Destination: to("192.0.2.1:80")}, "network = off"},
		"blocked":              {Contacts{Block: net("192.0.2.0/24")}, flow.Context{Destination: to("192.0.2.1:80")}, "egress.block has 192.0.2.1"},
		"blocked although":     {closed, flow.Context{Destination: to("10.9.0.1:80")}, "egress.block has 10.9.0.1"},
		"blocked name":         {closed, flow.Context{Destination: to("10.0.0.1:80"), Host: "ads.example"}, "egress.block has ads.example"},
		"allowed":              {closed, flow.Context{Destination: to("10.0.0.1:80")}, ""},
		"allowed name":         {closed, flow.Context{Destination: to("192.0.2.1:443"), Host: "a.example", HostProof: flow.Answered}, ""},
		"allowed name, by any": {closed, flow.Context{Destination: to("192.0.2.1:7"), Host: "db", HostProof: flow.Answered}, ""},
		"one of names allowed": {closed, flow.Context{Destination: to("192.0.2.1:443"), Names: []string{"a.example", "x"}, HostProof: flow.Answered}, ""},
		"one of names blocked": {closed, flow.Context{Destination: to("10.0.0.1:80"), Names: []string{"a.example", "ads.example"}}, "egress.block has a.example or ads.example"},
		"names that are claimed": {closed, flow.Context{Destination: to("192.0.2.1:443"), Names: []string{"a.example", "b.example"}, HostProof: flow.Claimed},
			"egress.default = closed, and egress.allow has neither 192.0.2.1 nor a.example or b.example port 443"},
		"another port":      {closed, flow.Context{Destination: to("192.0.2.1:80"), Host: "a.example"}, "egress.default = closed, and egress.allow has neither 192.0.2.1 nor a.example port 80"},
		"only claimed":      {closed, flow.Context{Destination: to("192.0.2.1:443"), Host: "a.example", HostProof: flow.Claimed}, "egress.default = closed, and egress.allow has neither 192.0.2.1 nor a.example port 443"},
		"unseen":            {closed, flow.Context{Destination: to("192.0.2.1:443")}, "egress.default = closed, and egress.allow has no 192.0.2.1:443"},
		"looked up":         {closed, flow.Context{Protocol: flow.DNS, Destination: to("192.0.2.53:53"), Host: "a.example"}, ""},
		"unseen, looked up": {closed, flow.Context{Protocol: flow.DNS, Destination: to("192.0.2.53:53"), Host: "x"}, "egress.default = closed, and egress.allow has neither 192.0.2.53 nor x port 53"},
	} {
		s := &Settings{Contacts: test.contacts, Names: Names{Resolvers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}}
		if got := s.refuses(&test.c); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	asked := 0
	e, err := New(counting{&asked}, &dialer{}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	e.Set(&Settings{Contacts: closed})
	outside, inside := flow.Context{Destination: to("192.0.2.1:443")}, flow.Context{Destination: to("10.0.0.1:443")}
	if d, err := e.decider.Decide(t.Context(), outside); err != nil || !d.Profile.Deny || asked != 0 {
		t.Errorf("%+v, %v, asked %d times", d, err, asked)
	}
	if d := e.decider.(Rememberer).Known(&outside); d == nil || !d.Profile.Deny {
		t.Errorf("%+v", d)
	}
	if d, err := e.decider.Decide(t.Context(), inside); err != nil || d.Profile.Deny || e.decider.(Rememberer).Known(&inside) != nil || asked != 1 {
		t.Errorf("%+v, %v, asked %d times", d, err, asked)
	}
	// Where the site says whose answers are believed nowhere, names are taken as they are said.
	s := &Settings{Contacts: closed}
	if why := s.refuses(&flow.Context{Destination: to("192.0.2.1:443"), Host: "a.example", HostProof: flow.Claimed}); why != "" {
		t.Error(why)
	}
}

// counting counts how often it is asked, and remembers nothing.
type counting struct{ n *int }

func (c counting) Decide(context.Context, flow.Context) (flow.Decision, error) {
	*c.n++
	return flow.Decision{}, nil
}

func (counting) Known(*flow.Context) *flow.Decision { return nil }

// A container that floods is held to its pace, and is served again once it keeps to it.
func TestPace(t *testing.T) {
	var l lookups
	taken, begun := 0, time.Now()
	for range 5000 {
		if l.admit(1000) {
			taken++
		}
	}
	most := 1500 + int(1000*time.Since(begun).Seconds()) // a busy machine takes longer, in which more is due
	if taken < 900 || taken > most || l.counters().Dropped != int64(5000-taken) {
		t.Errorf("%d of 5000 queries were taken at once, at 1000 a second: %+v", taken, l.counters())
	}
	if !l.admit(1_000_000) { // of other settings
		t.Error("a query is dropped although nothing is owed")
	}
}
