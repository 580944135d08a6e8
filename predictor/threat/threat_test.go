package threat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/test/processor"
)

var today = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// read makes a set of one feed.
func read(t *testing.T, name, text string) (*Set, []Problem) {
	t.Helper()
	b := NewBuilder(today, 0, nil)
	b.Read(name, today, strings.NewReader(text))
	return b.Set()
}

// expect looks each destination up: "DESTINATION INDICATOR CONFIDENCE", or a destination alone that is not listed.
func expect(t *testing.T, s *Set, lines ...string) {
	t.Helper()
	for _, line := range lines {
		f := strings.Fields(line)
		got := s.Contacts(today, f[0])
		if len(f) == 1 {
			if len(got) > 0 {
				t.Errorf("%s is listed: %+v", f[0], got)
			}
			continue
		}
		if len(got) != 1 || got[0].Indicator != f[1] || fmt.Sprintf("%.2f", got[0].Confidence) != f[2] {
			t.Errorf("%s: got %+v", line, got)
		}
	}
}

func TestList(t *testing.T) {
	s, problems := read(t, "/feeds/mixed.netset", `# a list
#  Last update: Sat, 22 Aug 2026 03:00:29 +0200
; another comment
192.0.2.7
198.51.100.0/24 ; SBL1
2001:db8:1::/48
203.0.113.9	10
203.0.113.10 1
203.0.113.11 443
evil.example.com
0.0.0.0 tracker.example.net
http://files.example.org/x.sh#frag
203.0.113.64-203.0.113.71
203.0.113.80 - 203.0.113.81
d41d8cd98f00b204e9800998ecf8427e
10.0.0.0/8
0.0.0.0/0
10.1.2.3
this is nonsense
`)
	expect(t, s, "tcp/192.0.2.7:443 192.0.2.7/32 0.60", "udp/198.51.100.200:53 198.51.100.0/24 0.60", "tcp/[2001:db8:1::5]:80 2001:db8:1::/48 0.60",
		"203.0.113.9 203.0.113.9/32 0.97", "203.0.113.10 203.0.113.10/32 0.30", "203.0.113.11 203.0.113.11/32 0.60",
		"a.b.EVIL.example.com. evil.example.com 0.60", "tracker.example.net:443 tracker.example.net 0.60",
		"HTTP://Files.example.org/x.sh http://files.example.org/x.sh 0.60", "http://files.example.org/y.sh",
		"https://evil.example.com/any evil.example.com 0.60", "https://192.0.2.7:8443/ 192.0.2.7/32 0.60",
		"203.0.113.70 203.0.113.64/29 0.60", "203.0.113.81 203.0.113.80/31 0.60", "203.0.113.82",
		"D41D8CD98F00B204E9800998ECF8427E d41d8cd98f00b204e9800998ecf8427e 0.60", "tcp/[::ffff:192.0.2.7]:1 192.0.2.7/32 0.60",
		"tcp/10.2.3.4:80", "tcp/127.0.0.1:80", "tcp/10.1.2.3:80 10.1.2.3/32 0.60", "8.8.8.8", "example.com", "com", "notevil.example.com", "unix//run/x")
	f := s.Feeds()[0]
	if f.Name != "mixed" || f.Format != FormatList || !f.Time.Equal(time.Date(2026, 8, 22, 1, 0, 29, 0, time.UTC)) || f.Prefixes != 9 || f.Names != 4 || f.Ignored != 2 || f.Problems != 1 {
		t.Errorf("%+v", f)
	}
	if len(problems) != 1 || problems[0].String() != `/feeds/mixed.netset:19: "this" is no address, prefix, domain, URL or hash` {
		t.Errorf("%v", problems)
	}
	if c := s.Contacts(today, "tcp/192.0.2.7:443")[0]; c.Line != 4 || c.Feed != "mixed" || c.File != "/feeds/mixed.netset" || !c.Listed.Equal(f.Time) {
		t.Errorf("%+v", c)
	}
}

func TestDrop(t *testing.T) {
	s, problems := read(t, "drop_v4.json", `{"cidr":"192.0.2.0/24","sblid":"SBL1","rir":"apnic"}
{"cidr":"2001:db8::/32","sblid":"SBL2","rir":"ripencc"}
{"cidr":"nonsense"}
{"type":"metadata","timestamp":1787000000,"size":100,"records":2,"copyright":"(c)","terms":"x"}
`)
	expect(t, s, "192.0.2.200 192.0.2.0/24 0.90", "2001:db8::1 2001:db8::/32 0.90")
	if f := s.Feeds()[0]; f.Format != FormatDrop || f.Time.Unix() != 1787000000 || len(problems) != 1 || problems[0].Line != 3 {
		t.Errorf("%+v %v", f, problems)
	}
	s, _ = read(t, "asndrop.json", `{"asn":213702,"rir":"ripencc","domain":"x.example"}`+"\n")
	if f := s.Feeds(); len(f) != 1 || f[0].Ignored != 1 {
		t.Errorf("%+v", f)
	}
}

func TestAbuseCSV(t *testing.T) {
	for name, c := range map[string]struct {
		text   string
		expect []string
	}{
		"feodo": {`################
# Feodo Tracker Botnet C2 IP Blocklist (CSV)
# Last updated: 2026-08-30 10:00:00 UTC
#
"first_seen_utc","dst_ip","dst_port","c2_status","last_online","malware"
"2026-01-14 23:35:08","192.0.2.1","443","offline","2026-08-01","QakBot"
"2026-01-14 23:35:08","192.0.2.2","443","online","2026-08-30","Pikabot"
`, []string{"192.0.2.1 192.0.2.1/32 0.70", "192.0.2.2 192.0.2.2/32 0.90"}},
		"urlhaus": {`# id,dateadded,url,url_status,last_online,threat,tags,urlhaus_link,reporter
"3000001","2026-08-30 09:00:00","http://192.0.2.3:4000/bin.sh","online","2026-08-30 09:00:00","malware_download","32-bit,elf","https://urlhaus.abuse.ch/url/3000001/","x"
`, []string{"http://192.0.2.3:4000/bin.sh http://192.0.2.3:4000/bin.sh 0.90", "https://urlhaus.abuse.ch/url/3000001/", "192.0.2.3"}},
		"threatfox": {`# "first_seen_utc","ioc_id","ioc_value","ioc_type","threat_type","fk_malware","malware_alias","malware_printable","last_seen_utc","confidence_level","is_compromised","reference","tags","anonymous","reporter"
"2026-08-30 09:00:00", "1", "192.0.2.4:8080", "ip:port", "botnet_cc", "elf.mirai", "", "Mirai", "", "75", "False", "", "mirai", "0", "y"
"2026-08-30 09:00:00", "2", "c2.example.com", "domain", "botnet_cc", "elf.mirai", "", "Mirai", "", "100", "False", "", "mirai", "0", "y"
"2026-08-30 09:00:00", "3", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "sha1_hash", "payload", "x", "", "X", "", "50", "False", "", "", "0", "y"
`, []string{"tcp/192.0.2.4:8080 192.0.2.4/32 0.75", "c2.example.com c2.example.com 1.00", "da39a3ee5e6b4b0d3255bfef95601890afd80709 da39a3ee5e6b4b0d3255bfef95601890afd80709 0.50"}},
		"sslbl": {"# Firstseen,DstIP,DstPort\r\n2026-08-30 09:00:00,192.0.2.5,443\r\n", []string{"192.0.2.5 192.0.2.5/32 0.90"}},
		"sha1":  {"# Listingdate,SHA1,Listingreason\n2026-08-30 09:00:00,da39a3ee5e6b4b0d3255bfef95601890afd80709,X C&C\n", []string{"da39a3ee5e6b4b0d3255bfef95601890afd80709 da39a3ee5e6b4b0d3255bfef95601890afd80709 0.90"}},
		"bare":  {"\"2026-08-30 09:00:00\",\"192.0.2.6\",\"443\",\"x\"\n", []string{"192.0.2.6 192.0.2.6/32 0.90"}},
	} {
		s, problems := read(t, name+".csv", c.text)
		if len(problems) > 0 || len(s.Feeds()) != 1 || s.Feeds()[0].Format != FormatCSV {
			t.Errorf("%s: %v %+v", name, problems, s.Feeds())
			continue
		}
		expect(t, s, c.expect...)
	}
	s, _ := read(t, "x.csv", "# first_seen_utc,dst_ip,dst_port,last_online\n2026-01-01 00:00:00,192.0.2.1,443,2026-08-01\n")
	if c := s.Contacts(today, "192.0.2.1")[0]; !c.Listed.Equal(time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("listed %v, not when it was last online", c.Listed)
	}
}

func bundle(objects ...string) string {
	return `{"type":"bundle","id":"bundle--1","objects":[` + strings.Join(objects, ",\n") + `]}`
}

func indicatorObject(pattern, more string) string {
	return fmt.Sprintf(`{"type":"indicator","spec_version":"2.1","pattern_type":"stix","valid_from":"2026-08-31T00:00:00Z","pattern":%q%s}`, pattern, more)
}

func TestSTIX(t *testing.T) {
	s, problems := read(t, "cti.json", bundle(
		`{"type":"malware","name":"x"}`,
		indicatorObject("[ipv4-addr:value = '192.0.2.1']", `,"confidence":80`),
		indicatorObject("[ipv4-addr:value = '192.0.2.2' OR ipv6-addr:value = '2001:db8::2']", ""),
		indicatorObject("[domain-name:value = 'bad.example.com'] AND [ipv4-addr:value ISSUBSET '198.51.100.0/24']", ""),
		indicatorObject("[url:value = 'http://x.example.net/a'] FOLLOWEDBY [domain-name:value = 'y.example.net'] WITHIN 300 SECONDS", ""),
		indicatorObject("[file:hashes.'SHA-256' = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855']", ""),
		indicatorObject("[ipv4-addr:value = '192.0.2.3']", `,"revoked":true`),
		indicatorObject("[ipv4-addr:value = '192.0.2.4']", `,"valid_until":"2026-08-31T12:00:00Z"`),
		indicatorObject("[ipv4-addr:value = '192.0.2.5']", `,"valid_until":"2026-09-02T00:00:00.000Z"`),
		indicatorObject("[ipv4-addr:value = '192.0.2.6' AND network-traffic:dst_port = 443]", ""),
		indicatorObject("[ipv4-addr:value != '192.0.2.7']", ""),
		indicatorObject("[ipv4-addr:value IN ('192.0.2.8', '192.0.2.9')]", ""),
		indicatorObject("[ipv4-addr:value = ", ""),
		indicatorObject("[ipv4-addr:value = '192.0.2.10']", `,"indicator_types":["benign"]`),
		`{"type":"indicator","pattern_type":"yara","pattern":"rule x {}"}`,
		`{"type":"indicator","confidence":"high"}`,
	))
	expect(t, s, "192.0.2.1 192.0.2.1/32 0.80", "192.0.2.2 192.0.2.2/32 0.60", "2001:db8::2 2001:db8::2/128 0.60", "192.0.2.3", "192.0.2.4",
		"192.0.2.5 192.0.2.5/32 0.60", "192.0.2.6", "192.0.2.7", "192.0.2.8 192.0.2.8/32 0.60", "192.0.2.9 192.0.2.9/32 0.60", "192.0.2.10",
		"bad.example.com", "198.51.100.7", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0.60")
	// What is said of two things together is said when both were seen.
	if c := s.Contacts(today, "www.bad.example.com", "tcp/198.51.100.7:80"); len(c) != 1 || c[0].Indicator != "bad.example.com AND 198.51.100.0/24" {
		t.Errorf("%+v", c)
	}
	if c := s.Contacts(today, "http://x.example.net/a", "y.example.net"); len(c) != 1 {
		t.Errorf("%+v", c)
	}
	if c := s.Contacts(time.Date(2026, 9, 3, 0, 0, 0, 0, time.UTC), "192.0.2.5"); len(c) != 0 {
		t.Errorf("listed after its end: %+v", c)
	}
	if f := s.Feeds()[0]; f.Expired != 2 || f.Ignored != 4 || f.Joint != 2 || len(problems) != 2 || problems[0].Line != 13 || problems[1].Line != 16 {
		t.Errorf("%+v %v", f, problems)
	}
	for _, text := range []string{bundle(indicatorObject("[ipv4-addr:value = '192.0.2.1']", "")) + "x", `{"objects":[` + indicatorObject("[ipv4-addr:value = '192.0.2.1']", ""),
		`{"type":"bundle"}`, `{"objects":5}`, `{`, `[1`, `{"a":`} {
		if s, problems := read(t, "bad.json", text); len(s.Feeds()) > 0 && !strings.HasSuffix(text, "x") || len(problems) == 0 && !strings.HasSuffix(text, "x") {
			t.Errorf("%.40s: %+v %v", text, s.Feeds(), problems)
		}
	}
}

func TestSTIXPatterns(t *testing.T) {
	for pattern, want := range map[string]string{
		"[a:b = 'x']":                                                   "1",
		"[a:b = 'x' OR a:b = 'y' AND a:c = 'z']":                        "1 2",
		"([a:b = 'x'] OR [a:b = 'y']) AND [c:d='']":                     "2 2",
		"[(a:b = 'x' OR a:c = 2) AND NOT a:d LIKE '%'] REPEATS 5 TIMES": "2 2",
		"[EXISTS a:b AND a:c = true]":                                   "2",
		"[a:b[0].c NOT IN (1, 2)] START t'2020-01-01T00:00:00Z' STOP t'2021-01-01T00:00:00Z'": "1 1",
		"[a:'q x'.\"r\" == 'it\\'s']": "1",
	} {
		all, err := parsePattern(pattern)
		var got []string
		for _, c := range all {
			got = append(got, fmt.Sprint(len(c)))
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v %v, want %s", pattern, got, err, want)
		}
	}
	for _, bad := range []string{"", "[", "[]", "a:b = 'x'", "[a:b]", "[a:b = ]", "[a:b = 'x", "[a:b = 'x'] OR", "[a:b = 'x'] x", "[a = 'x']", "[a:b ~ 'x']",
		"[a:b IN ()]", "[a:b IN ('x'", "[a:b IN 'x']", "[a:b = 'x'] WITHIN", "[a:b[ = 'x']", "[a:'b = x]", strings.Repeat("(", 100), strings.Repeat("x", maxPattern+1),
		"[" + strings.Repeat("(a:b=1 OR a:b=2) AND ", 20) + "a:b=1]", "[a:b IN (" + strings.Repeat("1,", 5000) + "1) OR a:b = 2]"} {
		if all, err := parsePattern(bad); err == nil {
			t.Errorf("%.60q is read as %v", bad, all)
		}
	}
}

// Half-life, floor, several feeds, the most specific of each.
func TestConfidence(t *testing.T) {
	b := NewBuilder(today, 24*time.Hour, nil)
	b.Read("a.txt", today.Add(-24*time.Hour), strings.NewReader("192.0.2.0/24\n192.0.2.1\n"))
	b.Read("b.txt", today, strings.NewReader("192.0.2.1\n192.0.2.1 3\n"))
	b.Read("old.txt", today.Add(-10*24*time.Hour), strings.NewReader("198.51.100.1\n"))
	s, _ := b.Set()
	c := s.Contacts(today, "192.0.2.1")
	slices.SortFunc(c, func(a, b evidence.Contact) int { return strings.Compare(a.Feed, b.Feed) })
	if len(c) != 2 || c[0].Feed != "a" || c[0].Indicator != "192.0.2.1/32" || math.Abs(c[0].Confidence-0.3) > 1e-9 || math.Abs(c[1].Confidence-counted(3)) > 0.01 {
		t.Errorf("%+v", c)
	}
	if c := s.Contacts(today, "198.51.100.1"); len(c) > 0 || !s.Lists(netip.MustParseAddr("198.51.100.1")) {
		t.Errorf("%+v", c)
	}
}

// The table finds what a walk over all prefixes finds.
func TestTableAgainstAllPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var table prefixes
		var all []netip.Prefix
		for i := range 1 + r.IntN(300) {
			a := netip.AddrFrom4([4]byte{byte(r.IntN(2)), byte(r.IntN(2)), byte(r.IntN(3)), byte(r.IntN(256))})
			bits := 8 + r.IntN(25)
			if r.IntN(3) == 0 {
				a, bits = netip.AddrFrom16([16]byte{0x20, byte(r.IntN(2)), 7: byte(r.IntN(2)), 8: byte(r.IntN(2)), 15: byte(r.IntN(9))}), 8+r.IntN(121)
			}
			p := netip.PrefixFrom(a, bits).Masked()
			all = append(all, p)
			table.add(p, entry{feed: uint16(i)})
		}
		table.build()
		for range 300 {
			a := all[r.IntN(len(all))].Addr()
			if r.IntN(2) == 0 {
				a = a.Next()
			}
			if r.IntN(8) == 0 {
				a = netip.AddrFrom4([4]byte{byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(3)), byte(r.IntN(256))})
			}
			want, got := map[netip.Prefix]int{}, map[netip.Prefix]int{}
			for _, p := range all {
				if p.Contains(a) {
					want[p]++
				}
			}
			k, _ := keyOf(a)
			last := 129
			for i := table.lookup(k); i != noParent; i = table.items[i].parent {
				p := table.prefix(i)
				if got[p]++; p.Bits() > last {
					t.Fatalf("%s: %s after a shorter one", a, p)
				}
				last = p.Bits()
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%s: got %v, want %v", a, got, want)
			}
		}
	}
	var last prefixes
	last.add(netip.MustParsePrefix("255.255.1.0/24"), entry{})
	last.build()
	if k, _ := keyOf(netip.MustParseAddr("255.255.1.9")); last.lookup(k) != 0 {
		t.Error("the last /16 is not searched")
	}
	var empty prefixes
	empty.build()
	if k, _ := keyOf(netip.MustParseAddr("1.2.3.4")); empty.lookup(k) != noParent {
		t.Error("an empty table lists something")
	}
	if empty.add(netip.MustParsePrefix("ffff:ffff::/32"), entry{}) || empty.add(netip.PrefixFrom(netip.MustParseAddr("::ffff:1.2.3.4"), 8), entry{}) {
		t.Error("took what would be mistaken for IPv4")
	}
}

// million writes n lines: seven in ten single addresses, the rest networks, a tenth of all IPv6.
func million(n int) string {
	r := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	for range n {
		x := r.Uint32()
		a := netip.AddrFrom4([4]byte{byte(x>>24)%223 + 1, byte(x >> 16), byte(x >> 8), byte(x)})
		switch k := r.IntN(10); {
		case k < 7:
			fmt.Fprintln(&b, a)
		case k < 9:
			fmt.Fprintln(&b, netip.PrefixFrom(a, 17+r.IntN(15)).Masked())
		default:
			fmt.Fprintln(&b, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x), byte(r.IntN(256))}), 33+r.IntN(32)).Masked())
		}
	}
	return b.String()
}

// A million prefixes: 64 MiB and 3 s are the bounds of the issue. Time is asserted as that of processors, with room for a busy machine.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a million lines: not in -short")
	}
	text := million(1_000_000)
	before := heap()
	start, begun := time.Now(), processor.Used(t)
	s, problems := read(t, "million.txt", text)
	passed, took := time.Since(start), processor.Used(t)-begun
	size := heap() - before
	n, _ := s.Size()
	t.Logf("%d prefixes: %.1f MiB, read in %v, %v of processors", n, float64(size)/(1<<20), passed, took)
	if n < 950_000 || len(problems) > 0 {
		t.Fatalf("%d prefixes, %v", n, problems)
	}
	if size > 64<<20 {
		t.Errorf("%d bytes are more than 64 MiB", size)
	}
	if took > 6*time.Second {
		t.Errorf("took %v of processors, wanted 3 s on an idle machine", took)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(text)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkLists(b *testing.B) {
	builder := NewBuilder(today, 0, nil)
	builder.Read("million.txt", today, strings.NewReader(million(1_000_000)))
	s, _ := builder.Set()
	r := rand.New(rand.NewPCG(5, 6))
	ask := make([]netip.Addr, 1<<16)
	for i := range ask {
		x := r.Uint32()
		ask[i] = netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)})
		if i%8 == 0 {
			ask[i] = s.prefixes.prefix(uint32(r.IntN(len(s.prefixes.hi)))).Addr()
		}
	}
	n := 0
	for i := 0; b.Loop(); i++ {
		if s.Lists(ask[i&(len(ask)-1)]) {
			n++
		}
	}
	b.ReportMetric(float64(n)/float64(b.N), "hits/op")
}

func BenchmarkRead(b *testing.B) {
	text := million(1_000_000)
	for b.Loop() {
		builder := NewBuilder(today, 0, nil)
		builder.Read("million.txt", today, strings.NewReader(text))
		builder.Set()
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestFeedsReload(t *testing.T) {
	dir := t.TempDir()
	parse := func(file string, data []byte) ([]Technique, error) {
		if string(data) == "bad" {
			return nil, fmt.Errorf("is bad")
		}
		return []Technique{{ID: "T1496", Name: "x", Severity: 1, Rules: []Rule{{Confidence: 1, Executables: []string{string(data)}}}}}, nil
	}
	f := NewFeeds(Options{Dirs: []string{dir, filepath.Join(dir, "missing")}, ParseTechniques: parse})
	if !f.Reload(today) || f.Reload(today) {
		t.Error("the first reload changes something, the second nothing")
	}
	write(t, dir, "a.txt", "192.0.2.1\nevil.example.com\n")
	write(t, dir, "b.json", bundle(indicatorObject("[domain-name:value = 'b.example.com'] AND [ipv4-addr:value = '192.0.2.9']", "")))
	write(t, dir, "t.toml", "xmrig")
	write(t, dir, ".hidden", "192.0.2.66\n")
	if !f.Reload(today) {
		t.Fatal("nothing changed")
	}
	both := func() int { return len(f.Set().Contacts(today, "b.example.com", "192.0.2.9")) }
	expect(t, f.Set(), "192.0.2.1 192.0.2.1/32 0.60", "evil.example.com evil.example.com 0.60", "192.0.2.66")
	if both() != 1 || len(f.Patterns().Techniques(Facts{Executables: []string{"/usr/bin/xmrig"}})) != 1 {
		t.Errorf("%+v", f.Status())
	}
	// Bad files keep what they said; the other files are not read again and keep it, too.
	write(t, dir, "a.txt", "<html>404</html>\n")
	write(t, dir, "t.toml", "bad")
	if !f.Reload(today) {
		t.Fatal("nothing changed")
	}
	expect(t, f.Set(), "192.0.2.1 192.0.2.1/32 0.60", "evil.example.com evil.example.com 0.60")
	var fatal []string
	for _, p := range f.Status().Problems {
		if p.Fatal {
			fatal = append(fatal, filepath.Base(p.File))
		}
	}
	if both() != 1 || f.Patterns().Len() != 1 || !slices.Equal(slices.Sorted(slices.Values(fatal)), []string{"a.txt", "t.toml"}) {
		t.Errorf("%+v", f.Status())
	}
	// A file that is removed says nothing any more.
	os.Remove(filepath.Join(dir, "b.json"))
	write(t, dir, "a.txt", "192.0.2.2\n")
	if !f.Reload(today) || both() != 0 || len(f.Status().Feeds) != 1 {
		t.Errorf("%+v", f.Status())
	}
	expect(t, f.Set(), "192.0.2.1", "192.0.2.2 192.0.2.2/32 0.60")
}

// The list that the shared data has: its format, and that what is on many lists is believed more.
func TestIpsum(t *testing.T) {
	dir := os.Getenv("FOREFEND_DATA")
	if dir == "" {
		t.Skip("FOREFEND_DATA names no directory of data")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "feeds", "ipsum*"))
	if len(files) == 0 {
		t.Skip("no ipsum list in FOREFEND_DATA/feeds")
	}
	b := NewBuilder(today, 0, nil)
	if !readFile(b, files[0], today) {
		t.Fatal(b.problems)
	}
	s, problems := b.Set()
	if n, _ := s.Size(); n < 1000 || len(problems) > 0 || s.Feeds()[0].Time.Equal(today) {
		t.Errorf("%d prefixes of %+v, %v", n, s.Feeds()[0], problems)
	}
}
