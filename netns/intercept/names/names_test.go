package names

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func query(t testing.TB, name string, more ...dnsmessage.Resource) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:      dnsmessage.Header{ID: 0x1234, RecursionDesired: true, CheckingDisabled: true},
		Questions:   []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Additionals: more,
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func optionOf() dnsmessage.Resource {
	var h dnsmessage.ResourceHeader
	_ = h.SetEDNS0(4096, dnsmessage.RCodeSuccess, true)
	return dnsmessage.Resource{Header: h, Body: &dnsmessage.OPTResource{}}
}

func resource(owner string, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(owner), Class: dnsmessage.ClassINET, TTL: ttl}, Body: body}
}

func a(s string) dnsmessage.ResourceBody {
	addr := netip.MustParseAddr(s)
	if addr.Is4() {
		return &dnsmessage.AResource{A: addr.As4()}
	}
	return &dnsmessage.AAAAResource{AAAA: addr.As16()}
}

func alias(to string) dnsmessage.ResourceBody {
	return &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(to)}
}

func answer(t testing.TB, name string, code dnsmessage.RCode, records ...dnsmessage.Resource) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, Response: true, RCode: code},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers:   records,
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadQuery(t *testing.T) {
	for name, host := range map[string]string{
		"wWw.Example.COM.": "www.example.com", ".": "", "_dns-sd._udp.local.": "_dns-sd._udp.local", "a b\x00\\c.example.": `a\032b\000\092c.example`,
		"\xc3\xa4.example.": `\195\164.example`,
	} {
		b := query(t, name, optionOf())
		q, err := ReadQuery(b)
		if err != nil || q.Host != host || q.ID != 0x1234 || q.Type != dnsmessage.TypeA || q.Write {
			t.Errorf("%q: %+v, %v", name, q, err)
		}
	}
	update := query(t, "zone.example.")
	update[2] = opUpdate << 3
	if q, err := ReadQuery(update); err != nil || !q.Write {
		t.Errorf("an update: %+v, %v", q, err)
	}
	good := query(t, "www.example.")
	for name, change := range map[string]func(b []byte) []byte{
		"short":         func(b []byte) []byte { return b[:11] },
		"cut":           func(b []byte) []byte { return b[:len(b)-1] },
		"an answer":     func(b []byte) []byte { b[2] |= 0x80; return b },
		"two questions": func(b []byte) []byte { b[5] = 2; return b },
		"no question":   func(b []byte) []byte { b[5] = 0; return b },
		"of state":      func(b []byte) []byte { b[2] = 6 << 3; return b },
		"compressed":    func(b []byte) []byte { b[12], b[13] = 0xc0, 12; return b },
		"a dot":         func(b []byte) []byte { b[14] = '.'; return b },
		"long": func([]byte) []byte {
			return query(t, strings.Repeat(strings.Repeat("\x01", 62)+".", 2))
		},
	} {
		if q, err := ReadQuery(change(slices.Clone(good))); err == nil {
			t.Errorf("%s: %+v", name, q)
		}
	}
}

func TestBegins(t *testing.T) {
	b := query(t, "www.example.")
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	if !Begins(framed) || !Begins(framed[:First]) || Begins(framed[:First-1]) {
		t.Error("a query is not recognised by its beginning")
	}
	for _, other := range []string{"GET / HTTP/1.1\r\n", "SSH-2.0-OpenSSH_9.2", "EHLO example.com\r\n", strings.Repeat("\x00", 20)} {
		if Begins([]byte(other)) {
			t.Errorf("%q is taken for a query", other)
		}
	}
}

func TestRefuse(t *testing.T) {
	for _, with := range [][]dnsmessage.Resource{nil, {optionOf()}} {
		b := query(t, "wWw.example.", with...)
		got := Refuse(b, Refused)
		var m dnsmessage.Message
		if err := m.Unpack(got); err != nil {
			t.Fatal(err)
		}
		if m.ID != 0x1234 || !m.Response || m.RCode != dnsmessage.RCodeRefused || !m.RecursionDesired || !m.RecursionAvailable || m.Authoritative || m.Truncated ||
			m.Questions[0].Name.String() != "wWw.example." || len(m.Additionals) != len(with) {
			t.Errorf("%+v", m)
		}
		q, err := ReadQuery(b)
		if err != nil || !q.Answers(b, got) {
			t.Error("it does not answer the query")
		}
	}
	malformed := []byte{1, 2, 0x10, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0xc0}
	if got := Refuse(malformed, Malformed); !bytes.Equal(got, []byte{1, 2, 0x90, 0x81, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("%x", got)
	}
	if Refuse(malformed[:3], Malformed) != nil || Refuse(answer(t, "x.", 0), Malformed) != nil {
		t.Error("something is answered that is no query")
	}
}

func TestAnswers(t *testing.T) {
	b := query(t, "wWw.example.")
	q, err := ReadQuery(b)
	if err != nil {
		t.Fatal(err)
	}
	failed := []byte{0x12, 0x34, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0}
	ofType := func(kind dnsmessage.Type) []byte { // as letters, these would be the same as services' in another case
		m := answer(t, "www.example.", 0)
		m[len(m)-3] = byte(kind)
		return m
	}
	services := query(t, "www.example.")
	services[len(services)-3] = byte(dnsmessage.TypeHTTPS)
	if q, err := ReadQuery(services); err != nil || q.Answers(services, ofType('a')) || !q.Answers(services, ofType(dnsmessage.TypeHTTPS)) {
		t.Errorf("an answer of another type answers a query: %v", err)
	}
	for name, test := range map[string]struct {
		b    []byte
		want bool
	}{
		"it":               {answer(t, "www.EXAMPLE.", 0, resource("www.example.", 1, a("192.0.2.1"))), true},
		"failed":           {failed, true},
		"nothing":          {append(slices.Clone(failed[:3]), 0x80, 0, 0, 0, 0, 0, 0, 0, 0), false},
		"another name":     {answer(t, "www.example1.", 0), false},
		"short":            {answer(t, "w.", 0), false},
		"the query itself": {b, false},
		"another number":   {append([]byte{9, 9}, answer(t, "www.example.", 0)[2:]...), false},
		"empty":            {nil, false},
	} {
		if q.Answers(b, test.b) != test.want {
			t.Error(name)
		}
	}
}

func TestReadAnswer(t *testing.T) {
	address := resource("www.example.", 300, a("192.0.2.1"))
	for name, test := range map[string]struct {
		b    []byte
		want string
	}{
		"both":      {answer(t, "www.example.", 0, address, resource("www.example.", 60, a("2001:db8::1"))), "www.example [192.0.2.1 2001:db8::1] 1m0s"},
		"mapped":    {answer(t, "www.example.", 0, resource("www.example.", 60, &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("::ffff:192.0.2.1").As16()})), "www.example [192.0.2.1] 1m0s"},
		"aliases":   {answer(t, "WWW.example.", 0, resource("c.example.", 5, a("192.0.2.3")), resource("b.example.", 9, alias("C.example.")), resource("www.example.", 9, alias("b.example."))), "www.example [192.0.2.3] 5s"},
		"of others": {answer(t, "x.example.", 0, address, resource("y.example.", 1, alias("x.example."))), "x.example [] 0s"},
		"a circle":  {answer(t, "a.", 0, resource("a.", 5, alias("b.")), resource("b.", 5, alias("a."))), "a [] 0s"},
		"none":      {answer(t, "www.example.", dnsmessage.RCodeNameError, address), "www.example [] 0s none"},
		"no answer": {query(t, "www.example."), " [] 0s"},
		"cut":       {answer(t, "www.example.", 0, address, address)[:60], "www.example [192.0.2.1] 5m0s"},
		"other kinds": {answer(t, "www.example.", 0, resource("www.example.", 1, &dnsmessage.TXTResource{TXT: []string{"x"}}), dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("www.example."), Class: dnsmessage.ClassCHAOS}, Body: a("192.0.2.9")}, address), "www.example [192.0.2.1] 5m0s"},
	} {
		host, got := ReadAnswer(test.b)
		text := fmt.Sprint(host, " ", got.Addresses, " ", got.TTL)
		if got.None {
			text += " none"
		}
		if text != test.want {
			t.Errorf("%s: %s, want %s", name, text, test.want)
		}
	}
	var many []dnsmessage.Resource
	for i := range 1000 {
		many = append(many, resource("www.example.", 1, a(fmt.Sprintf("10.0.%d.%d", i/256, i%256))))
	}
	if _, got := ReadAnswer(answer(t, "www.example.", 0, many...)); len(got.Addresses) != maxAddresses {
		t.Errorf("%d addresses are read", len(got.Addresses))
	}
}

// offer is what a service says of itself.
func offer(priority uint16, params ...dnsmessage.SVCParam) *dnsmessage.HTTPSResource {
	return &dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{Priority: priority, Target: dnsmessage.MustNewName("."), Params: params}}
}

var (
	http3 = dnsmessage.SVCParam{Key: dnsmessage.SVCParamALPN, Value: []byte("\x02h3")}
	keys  = dnsmessage.SVCParam{Key: dnsmessage.SVCParamECH, Value: []byte("keys")}
	hint4 = dnsmessage.SVCParam{Key: dnsmessage.SVCParamIPv4Hint, Value: []byte{192, 0, 2, 1, 192, 0, 2, 2}}
	hint6 = dnsmessage.SVCParam{Key: dnsmessage.SVCParamIPv6Hint, Value: netip.MustParseAddr("2001:db8::1").AsSlice()}
)

// of is an answer to who asked for a kind of records, with more of them in the additional section.
func of(t testing.TB, kind dnsmessage.Type, more []dnsmessage.Resource, records ...dnsmessage.Resource) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, Response: true, Authoritative: true, RecursionDesired: true, RecursionAvailable: true, AuthenticData: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("www.example."), Type: kind, Class: dnsmessage.ClassINET}}, Answers: records, Additionals: more,
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHints(t *testing.T) {
	www := func(body dnsmessage.ResourceBody) dnsmessage.Resource { return resource("www.example.", 60, body) }
	svcb := offer(1, hint6).SVCBResource
	for name, test := range map[string]struct {
		b    []byte
		want string
	}{
		"both":            {of(t, dnsmessage.TypeHTTPS, nil, www(offer(1, http3, hint4, hint6))), "[192.0.2.1 192.0.2.2 2001:db8::1] 1m0s"},
		"SVCB":            {of(t, dnsmessage.TypeSVCB, nil, www(&svcb)), "[2001:db8::1] 1m0s"},
		"by an alias":     {of(t, dnsmessage.TypeHTTPS, nil, www(alias("c.example.")), resource("c.example.", 5, offer(1, hint4))), "[192.0.2.1 192.0.2.2] 5s"},
		"of an alias":     {of(t, dnsmessage.TypeHTTPS, nil, www(offer(0, hint4))), "[] 0s"},
		"of another name": {of(t, dnsmessage.TypeHTTPS, nil, resource("x.example.", 5, offer(1, hint4))), "[] 0s"},
		"half an address": {of(t, dnsmessage.TypeHTTPS, nil, www(offer(1, dnsmessage.SVCParam{Key: dnsmessage.SVCParamIPv6Hint, Value: make([]byte, 17)}))), "[::] 1m0s"},
	} {
		if _, got := ReadAnswer(test.b); fmt.Sprint(got.Addresses, " ", got.TTL) != test.want {
			t.Errorf("%s: %v, want %s", name, got, test.want)
		}
	}
}

func TestHides(t *testing.T) {
	www := func(body dnsmessage.ResourceBody) dnsmessage.Resource { return resource("www.example.", 60, body) }
	keyed, open := www(offer(1, http3, hint4, keys, hint6)), www(offer(1, http3, hint4, hint6))
	whole := of(t, dnsmessage.TypeHTTPS, nil, keyed)
	for name, test := range map[string]struct {
		b    []byte
		want bool
	}{
		"keys":                     {whole, true},
		"none":                     {of(t, dnsmessage.TypeHTTPS, []dnsmessage.Resource{optionOf()}, open, www(a("192.0.2.1"))), false},
		"in another one":           {of(t, dnsmessage.TypeHTTPS, nil, open, keyed), true},
		"beside":                   {of(t, dnsmessage.TypeSVCB, []dnsmessage.Resource{optionOf(), keyed}, open), true},
		"of everything":            {of(t, typeANY, nil, www(a("192.0.2.1")), keyed), true},
		"who asked for addresses":  {of(t, dnsmessage.TypeA, nil, keyed), false},
		"cut":                      {whole[:len(whole)-1], true},
		"no more than a question":  {whole[:header+17], true},
		"not even that":            {whole[:header+3], false},
		"a query":                  {query(t, "www.example."), false},
		"more than anybody needs":  {of(t, dnsmessage.TypeHTTPS, nil, slices.Repeat([]dnsmessage.Resource{open}, maxRecords+1)...), true},
		"as many as anybody needs": {of(t, dnsmessage.TypeHTTPS, nil, slices.Repeat([]dnsmessage.Resource{open}, maxRecords)...), false},
	} {
		if got := Hides(test.b); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestWithout(t *testing.T) {
	for name, more := range map[string][]dnsmessage.Resource{"plain": nil, "with EDNS": {optionOf()}} {
		b := Without(of(t, dnsmessage.TypeHTTPS, more, resource("www.example.", 60, offer(1, keys))))
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		want := dnsmessage.Header{ID: 7, Response: true, RecursionDesired: true, RecursionAvailable: true}
		if m.Header != want || len(m.Questions) != 1 || len(m.Answers)+len(m.Authorities) > 0 || len(m.Additionals) != len(more) {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if b := Without([]byte{0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 65, 0, 1}); b != nil {
		t.Errorf("of a question that is compressed: %x", b)
	}
}

func TestMap(t *testing.T) {
	var m Map
	now := time.Unix(1e9, 0)
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::2")
	learn := func(host string, ttl time.Duration, listed bool, addrs ...netip.Addr) {
		m.Learn(host, Answer{Addresses: addrs, TTL: ttl}, listed, now)
	}
	said := func(addr netip.Addr, host, want string) {
		t.Helper()
		s, l := m.Said(addr, host, now)
		if got := fmt.Sprint(s, l); got != want {
			t.Errorf("%s for %s: %s, want %s", addr, host, got, want)
		}
	}
	said(one, "a", "false false")
	hosts := func(addr netip.Addr, want string) {
		t.Helper()
		h, l := m.Hosts(addr, 3, now)
		if got := fmt.Sprint(h, l); got != want {
			t.Errorf("%s is %s, want %s", addr, got, want)
		}
	}
	hosts(one, "[] false")
	learn("", time.Hour, true, one) // the root has no addresses
	learn("a", 0, false, one, two)
	learn("b", time.Hour, true, two)
	hosts(one, "[a] false")
	hosts(two, "[b] true") // what nobody says who is believed is nothing beside it
	several := netip.MustParseAddr("192.0.2.3")
	learn("e", time.Hour, false, several)
	learn("d", time.Hour, false, several)
	hosts(several, "[d e] false")
	learn("c", time.Hour, false, several)
	learn("b", time.Hour, false, several)
	learn("d", time.Second, false, several)
	hosts(several, "[b c d] false") // the latest
	learn("y", time.Hour, true, several)
	learn("x", 0, true, several)
	hosts(several, "[x y] true")
	now = now.Add(leastLife - 1)
	hosts(several, "[x y] true")
	said(one, "a", "true false") // and lives on, since it is used
	now = now.Add(usedLife - 1)
	said(two, "a", "false false")
	said(two, "b", "false false")
	said(one, "a", "true false")
	learn("a", time.Hour, true, one)
	learn("a", time.Second, false, one)
	said(one, "a", "true true")
	now = now.Add(2 * mostLife)
	hosts(one, "[] false")
	learn("a", time.Second, false, one) // what a listed resolver said is over
	said(one, "a", "true false")
}

// TestMapAddressesApart: how long an answer holds for one address says nothing of the next.
func TestMapAddressesApart(t *testing.T) {
	var m Map
	now := time.Unix(1e9, 0)
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	m.Learn("a", Answer{Addresses: []netip.Addr{one}, TTL: 20 * time.Hour}, true, now)
	m.Learn("a", Answer{Addresses: []netip.Addr{one, two}}, true, now)
	now = now.Add(2 * time.Hour)
	if said, _ := m.Said(one, "a", now); !said {
		t.Error("the first is forgotten")
	}
	if said, _ := m.Said(two, "a", now); said {
		t.Error("the second holds for as long as the first")
	}
}

// TestMapForgetsUnlisted: names that nobody says who is believed push none out that somebody does.
func TestMapForgetsUnlisted(t *testing.T) {
	var m Map
	now := time.Unix(1e9, 0)
	one := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	m.Learn("pay.example", Answer{Addresses: one}, true, now)
	for i := range 2 * maxNames {
		m.Learn(fmt.Sprint(i, ".other.example"), Answer{Addresses: one, TTL: time.Hour}, false, now)
	}
	if _, listed := m.Said(one[0], "pay.example", now); !listed || m.Len() != maxNames {
		t.Errorf("listed %v, %d names", listed, m.Len())
	}
}

func TestMapBounds(t *testing.T) {
	var m Map
	now := time.Unix(1e9, 0)
	one := netip.MustParseAddr("192.0.2.1")
	for i := range 2 * maxNames {
		m.Learn(fmt.Sprint(i), Answer{Addresses: []netip.Addr{one}, TTL: time.Duration(i) * time.Hour / 100}, true, now)
	}
	if m.Len() != maxNames {
		t.Errorf("%d names of an address", m.Len())
	}
	if said, _ := m.Said(one, fmt.Sprint(2*maxNames-1), now); !said {
		t.Error("the last is forgotten")
	}
	listed := func() (n int) {
		for _, names := range m.addrs {
			for _, p := range names {
				if p.listed {
					n++
				}
			}
		}
		return n
	}
	before := listed()
	for i := range 3 * maxPairs {
		m.Learn(fmt.Sprint(i), Answer{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}}, false, now)
		if m.Len() > maxPairs {
			t.Fatalf("%d pairs", m.Len())
		}
	}
	if listed() != before {
		t.Errorf("%d names of a listed resolver are left, of %d", listed(), before)
	}
	for i := range 3 * maxPairs {
		m.Learn(fmt.Sprint(i), Answer{Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}}, true, now)
	}
	count := 0
	for _, names := range m.addrs {
		count += len(names)
	}
	if count != m.Len() || count > maxPairs || count < maxPairs/4 {
		t.Errorf("%d pairs, %d are counted", count, m.Len())
	}
}

// FuzzMessage reads whatever comes as a query and as an answer. What is accepted is what the library reads, and what is refused, too, is
// answered with something that it reads.
func FuzzMessage(f *testing.F) {
	f.Add(query(f, "www.example.", optionOf()))
	f.Add(answer(f, "www.example.", 0, resource("www.example.", 9, alias("b.")), resource("b.", 1, a("192.0.2.1"))))
	f.Add(of(f, dnsmessage.TypeHTTPS, []dnsmessage.Resource{optionOf()}, resource("www.example.", 9, offer(1, http3, hint4, keys, hint6))))
	f.Add([]byte{1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		was := slices.Clone(b)
		q, err := ReadQuery(b)
		if err == nil {
			var p dnsmessage.Parser
			if _, err := p.Start(b); err != nil {
				t.Fatal(err)
			}
			asked, err := p.AllQuestions()
			if err != nil || len(asked) != 1 || asked[0].Type != q.Type || len(q.Host) > maxHost || strings.ContainsFunc(q.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				t.Fatalf("%+v: %+v, %v", q, asked, err)
			}
		}
		for _, code := range []Code{Malformed, Failed, Refused} {
			got := Refuse(b, code)
			if got == nil {
				continue
			}
			var m dnsmessage.Message
			if err := m.Unpack(got); err != nil || !m.Response || m.RCode != dnsmessage.RCode(code) {
				t.Fatalf("%x: %+v, %v", got, m, err)
			}
			if err == nil && !q.Answers(b, got) {
				t.Fatalf("%x does not answer %x", got, b)
			}
		}
		if Hides(b) {
			if got := Without(b); got != nil && Hides(got) {
				t.Fatalf("%x still hides", got)
			}
		}
		host, a := ReadAnswer(b)
		if len(a.Addresses) > maxAddresses || len(host) > maxHost || a.TTL < 0 {
			t.Fatalf("%s: %+v", host, a)
		}
		var m Map
		m.Learn(host, a, true, time.Unix(0, 0))
		Begins(b)
		if !bytes.Equal(b, was) {
			t.Fatal("it was written to")
		}
	})
}
