package workload

import (
	"strings"
	"testing"
)

func TestWay(t *testing.T) {
	for _, w := range []Way{
		{Encryption: "none"}, {Encryption: "strong", Endpoint: "eu-1"}, {Encryption: "strong", Dedicated: true, User: "a b = endpoint=x"},
		{Encryption: "standard", Endpoint: "eu", Dedicated: true}, {Encryption: "standard", Dedicated: true, User: "alice"},
	} {
		if got, err := ParseWay(w.String()); err != nil || got != w {
			t.Errorf("%q: %+v, %v", w, got, err)
		}
	}
	for _, bad := range []string{"none more", "none ", "none dedicated", "strong dedicated=a" + strings.Repeat("b", MaxWay), "none endpoint="} {
		if w, err := ParseWay(bad); err == nil {
			t.Errorf("%.30q: %+v", bad, w)
		}
	}
}

func FuzzParseWay(f *testing.F) {
	for _, s := range []string{"none", "strong endpoint=eu-1 dedicated=alice", "standard dedicated="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if w, err := ParseWay(s); err == nil && w.String() != s {
			t.Errorf("%q is read as %q", s, w)
		}
	})
}
