package egress

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/test/network"
)

func sorted(d []time.Duration) []time.Duration {
	slices.Sort(d)
	return d
}

// serveNames runs a name server in a namespace, on all its addresses: "www.NAME" has one address of each family, "big.NAME" an answer that is
// too long for a datagram.
func serveNames(t testing.TB, ns *enter.Namespace, name, v4, v6 string) {
	t.Helper()
	args := []string{"--local=/example/", "--host-record=www." + name + "," + v4 + "," + v6,
		"--dns-rr=open." + name + ",65,00010000010003026833" + "00040004c6336409", // alpn=h3 ipv4hint=198.51.100.9
		"--dns-rr=keyed." + name + ",65,0001000005000401020304"}                   // ech=AQIDBA==
	for i := range 12 {
		args = append(args, fmt.Sprintf("--txt-record=big.%s,%s", name, strings.Repeat(strconv.Itoa(i%10), 250)))
	}
	for i := range 100 {
		args = append(args, fmt.Sprintf("--host-record=many.%s,10.77.0.%d", name, i+1))
	}
	stop, err := network.NameServer(ns, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// newLookups is a world with name servers and an interceptor that takes queries.
func newLookups(t testing.TB) *world {
	t.Helper()
	w := newClosed(t, true)
	serveNames(t, w.outside, "example", "198.51.100.7", "2001:db8::7")
	w.agent.wants(t, "", "intercept", fmt.Sprint(interceptorPort))
	return w
}

// shell has the workload run a script with a server as its resolver.
func (w *world) shell(t testing.TB, server, text string) (string, error) {
	t.Helper()
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+server+"\noptions timeout:2 attempts:2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	text = fmt.Sprintf("set -e; mount --make-rprivate /; mount --bind %s /etc/resolv.conf; %s", resolv, text)
	return w.workload.Ask(t, "sh", base64.StdEncoding.EncodeToString([]byte(text)))
}

// says fails the test where a script does not print words.
func (w *world) says(t testing.TB, server, text string, words ...string) {
	t.Helper()
	got, err := w.shell(t, server, text)
	for _, word := range words {
		if err != nil || !strings.Contains(got, word) {
			t.Errorf("%s by %s: %.400q, %.200v; want %.200q", text, server, got, err, words)
			return
		}
	}
}

// saw has the interceptor tell of what it has seen since the last time, which must be among it.
func (w *world) saw(t testing.TB, words ...string) {
	t.Helper()
	got, err := w.agent.Ask(t, "seen", "-")
	for _, word := range words {
		if err != nil || !strings.Contains(got, word) {
			t.Errorf("the interceptor saw %q, %v; want %q", got, err, word)
		}
	}
}

// resolve has all clients ask a server, by datagrams and streams.
func (w *world) resolve(t *testing.T, server, name, v4, v6 string) {
	t.Helper()
	seen := fmt.Sprintf("dns:www.%s::%s", name, server)
	for _, c := range []struct{ client, text string }{
		{"dig", "dig +time=2 +noall +answer www.NAME A; dig +time=2 +noall +answer www.NAME AAAA"},
		{"dig over TCP", "dig +tcp +time=2 +noall +answer www.NAME A; dig +tcp +time=2 +noall +answer www.NAME AAAA"},
		{"dig, letters by chance", "dig +time=2 +noall +answer wWw.NAME A; dig +time=2 +noall +answer WWW.NAME AAAA"},
		{"glibc", "getent ahosts www.NAME"},
		{"glibc over TCP", "RES_OPTIONS=use-vc getent ahosts www.NAME"},
		{"musl", "MUSL www.NAME"},
	} {
		text := strings.NewReplacer("NAME", name, "MUSL", musl(t)).Replace(c.text)
		w.says(t, server, text, v4, v6)
		w.saw(t, seen)
	}
	for _, network := range []string{"udp", "tcp"} {
		got, err := w.workload.Ask(t, "lookup", at(server, "53"), "network="+network, "name=www."+name)
		if err != nil || !strings.Contains(got, v4) || !strings.Contains(got, v6) {
			t.Errorf("Go's resolver over %s: %q, %v", network, got, err)
		}
		w.saw(t, seen)
	}
	w.says(t, server, "dig +ignore +noedns +time=2 big."+name+" TXT", "flags: qr aa tc") // truncated
	w.says(t, server, "dig +time=2 big."+name+" TXT", strings.Repeat("7", 250), "(TCP)") // and asked for again
	w.says(t, server, "getent ahosts many."+name, "10.77.0.1 ", "10.77.0.100 ")
	w.says(t, server, musl(t)+" many."+name, "10.77.0.1")
	w.says(t, server, "dig +bufsize=4096 +time=2 big."+name+" TXT", strings.Repeat("7", 250), "udp: 4096", "(UDP)")
	w.says(t, server, "dig +time=2 none."+name, "NXDOMAIN")
	for _, how := range []string{"+notcp", "+tcp"} { // services; those that hide hosts are not heard of
		w.says(t, server, "dig +time=2 "+how+" open."+name+" TYPE65", "NOERROR", "ANSWER: 1,", "udp: ")
		w.says(t, server, "dig +time=2 "+how+" keyed."+name+" TYPE65", "NOERROR", "ANSWER: 0,", "udp: ")
	}
}

// musl is a static program of musl's that prints a host's addresses.
func musl(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "lookup.c"), filepath.Join(dir, "lookup")
	if err := os.WriteFile(source, []byte(muslSource), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("musl-gcc", "-static", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc (make setup-test installs it): %v\n%s", err, out)
	}
	return program
}

const muslSource = `#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int argc, char **argv) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *a;
	char host[256];
	int failed = getaddrinfo(argv[1], 0, &hints, &list);
	if (failed) return printf("%s\n", gai_strerror(failed)), 1;
	for (a = list; a; a = a->ai_next)
		if (!getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof host, 0, 0, NI_NUMERICHOST)) puts(host);
	return 0;
}
`

// TestRootLookups has real clients ask real servers: by the uplink, and by a tunnel, whose server says something else.
func TestRootLookups(t *testing.T) {
	w := newLookups(t)
	for _, server := range []string{server4, server6} {
		w.resolve(t, server, "example", "198.51.100.7", "2001:db8::7")
	}
	if len(w.seen.of("udp "+at(server4, "53"))) == 0 || len(w.seen.of("tcp "+at(server6, "53"))) == 0 {
		t.Error("the capture sees no queries at all")
	}
	seen := func() int { return len(w.seen.of("udp "+at(server4, "53"), "udp "+at(server6, "53"), "tcp")) }
	before := -1
	for now := seen(); now != before; now = seen() { // connections of before may be ending still
		before = now
		w.settle(t)
	}
	g, way := w.attach(t, "gateway", 1420)
	serveNames(t, g.ns, "example", "203.0.113.9", "2001:db8::9")
	w.agent.wants(t, "", "intercept", fmt.Sprint(interceptorPort), mark(way.Mark))
	for _, server := range []string{server4, server6} {
		w.resolve(t, server, "example", "203.0.113.9", "2001:db8::9")
		w.says(t, server, "dig +time=2 denied.example", "REFUSED")
		w.says(t, server, "dig +tcp +time=2 denied.example", "REFUSED")
		w.says(t, server, "dig +time=2 undecided.example", "SERVFAIL")
	}
	w.settle(t)
	if after := w.seen.of("udp "+at(server4, "53"), "udp "+at(server6, "53"), "tcp"); len(after) != before {
		t.Errorf("leaked by the uplink: %q", after[before:])
	}
	// What is in the namespace itself is none of ours.
	serveNames(t, w.inside, "inside", "10.0.0.1", "fd00::1")
	for _, own := range []string{"127.0.0.1", "::1", inside4, inside6} {
		_, _ = w.agent.Ask(t, "seen", "-")
		w.says(t, own, "dig +time=2 +short www.inside", "10.0.0.1")
		if got, err := w.agent.Ask(t, "seen", "-"); err != nil || got != "" {
			t.Errorf("the interceptor saw a query to %s: %q, %v", own, got, err)
		}
	}
	network.In(t, w.outside, func() error { // a server in the container has its answers out
		out, err := exec.Command("dig", "+time=2", "+short", "@"+inside4, "www.inside").CombinedOutput()
		if !strings.Contains(string(out), "10.0.0.1") {
			t.Errorf("from outside: %s, %v", out, err)
		}
		return nil
	})
}

// TestRootLookupsClosed looks for ways by which a query leaves that nobody decided.
func TestRootLookupsClosed(t *testing.T) {
	w := newLookups(t)
	_, way := w.attach(t, "gateway", 1420)
	w.agent.wants(t, "", "intercept", fmt.Sprint(interceptorPort), mark(way.Mark))
	queries := []string{"udp " + at(server4, "53"), "udp " + at(server6, "53"), "tcp"}
	for _, server := range []string{server4, server6} {
		to := at(server, "53")
		for _, options := range [][]string{
			{mark(way.Mark)}, {mark(marks.Direct)}, {mark(marks.Inbound)}, {"dev=in0"}, {"dev=" + way.Device}, {"dev=in0", mark(marks.Direct)}, {"dev=in0", mark(way.Mark)},
		} {
			w.workload.fails(t, append([]string{"udp", to}, options...)...)
		}
		w.agent.fails(t, "udp", to) // the interceptor itself, without a mark
	}
	w.workload.fails(t, "udp", at("127.0.0.1", fmt.Sprint(interceptorPort)))
	w.counted(t, nft.Lookup)
	w.none(t, queries...)

	w.agent.End()
	for _, server := range []string{server4, server6} {
		for _, how := range []string{"+notcp", "+tcp"} {
			if got, err := w.shell(t, server, "dig +time=1 +tries=1 +short "+how+" www.example || true"); err == nil && strings.Contains(got, "198.51.100.7") {
				t.Errorf("without an interceptor, %s says %q", server, got)
			}
		}
	}
	network.In(t, w.inside, nft.Clear)
	for _, server := range []string{server4, server6} {
		w.workload.fails(t, "udp", at(server, "53"))
	}
	w.none(t, queries...)
}

// BenchmarkRootLookup asks one server, by the interceptor and, in turns with it, without any rules from a namespace of the same kind.
func BenchmarkRootLookup(b *testing.B) {
	w := newLookups(b)
	bare := &world{inside: network.Of(b), outside: network.Of(b)}
	bare.link(b)
	serveNames(b, bare.outside, "example", "198.51.100.7", "2001:db8::7")
	straight := bare.start(b, newCgroup(b, "bare").dir)
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName("www.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
	}}
	query, err := m.Pack()
	if err != nil {
		b.Fatal(err)
	}
	const each = 200
	measure := func(p *process) float64 {
		got, err := p.Ask(b, "median", at(server4, "53"), fmt.Sprintf("n=%d", each), "query="+base64.StdEncoding.EncodeToString(query))
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseFloat(got, 64)
		if err != nil {
			b.Fatal(err)
		}
		return ns / 1000
	}
	var with, without, added []float64
	for b.Loop() {
		a, d := measure(w.workload), measure(straight)
		with, without, added = append(with, a), append(without, d), append(added, a-d)
	}
	for name, values := range map[string][]float64{"us": with, "direct-us": without, "added-us": added} {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], name)
	}
}
