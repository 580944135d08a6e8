package threat

import (
	"strings"
	"testing"
	"time"
)

// FuzzRead gives any bytes to every reader. What it takes must be findable and within bounds.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1\n10.0.0.0/8 ; x\n203.0.113.1\t9\n", "{\"cidr\":\"192.0.2.0/24\"}\n{\"type\":\"metadata\",\"timestamp\":1}\n",
		"# \"first_seen_utc\",\"ioc_id\",\"ioc_value\",\"confidence_level\"\n\"x\", \"1\", \"192.0.2.4:8080\", \"75\"\n",
		bundle(indicatorObject("[ipv4-addr:value = '192.0.2.1'] AND [url:value = 'http://a.b/']", "")), "1.2.3.4-1.2.3.9\n", "\xef\xbb\xbfevil.example.com\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := NewBuilder(today, time.Hour, nil)
		used := b.Read("f", today, strings.NewReader(text))
		s, problems := b.Set()
		if !used && len(problems) == 0 {
			t.Fatal("not used, and nothing was wrong")
		}
		for i := range s.prefixes.items {
			if !s.Lists(s.prefixes.prefix(uint32(i)).Addr()) {
				t.Fatalf("%s is listed and not found", s.prefixes.prefix(uint32(i)))
			}
		}
		s.Contacts(today, "192.0.2.1", "http://a.b/", text)
	})
}

// FuzzPattern: no STIX pattern makes more than its bounds, or the parser hang.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"[ipv4-addr:value = '1.2.3.4' OR domain-name:value IN ('a.b','c.d')] FOLLOWEDBY ([url:value NOT LIKE 'x'] REPEATS 2 TIMES)",
		"[file:hashes.'SHA-256' = 'aa' AND EXISTS a:b]", "[a:b[0].c ISSUBSET '10.0.0.0/8'] START t'x' STOP t'y'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all, err := parsePattern(s)
		if err == nil && len(all) == 0 || len(all) > maxConjunctions {
			t.Fatalf("%d alternatives, %v", len(all), err)
		}
		for _, c := range all {
			if len(c) == 0 || len(c) > maxParts {
				t.Fatalf("%d parts", len(c))
			}
		}
	})
}
