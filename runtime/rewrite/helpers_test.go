package rewrite

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
)

// corpus reads the specs of testdata/specs anew: tests change them.
func corpus(t testing.TB) map[string]*specs.Spec {
	t.Helper()
	files, err := filepath.Glob("testdata/specs/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	out := make(map[string]*specs.Spec)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".json")] = parse[specs.Spec](t, string(raw))
	}
	return out
}

func parse[T any](t testing.TB, text string) *T {
	t.Helper()
	v := new(T)
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// decided is the effective policy in which author decides each key as written.
// A key may be prefixed with another author: "operator:memory"; a guardrail's is a
// ceiling.
func decided(t testing.TB, values map[string]string) policy.Effective {
	t.Helper()
	var in policy.Input
	for k, s := range values {
		author, name, ok := strings.Cut(k, ":")
		if !ok || strings.Contains(author, "/") { // a device's name has colons
			author, name = "request", k
		}
		c := policy.Claim{Key: policy.Key(name), Origin: policy.Origin{Source: "test"}}
		if err := c.Author.UnmarshalText([]byte(author)); err != nil {
			t.Fatal(err)
		}
		v, err := c.Key.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.Value = v
		if c.Author == policy.Guardrail {
			in.Guards = append(in.Guards, policy.Guard{Key: c.Key, Ceiling: &v, Source: "test"})
			continue
		}
		in.Claims = append(in.Claims, c)
	}
	return policy.Merge(in)
}

func said(list []policy.Claim) map[policy.Key]policy.Value {
	m := make(map[policy.Key]policy.Value)
	for _, c := range list {
		m[c.Key] = c.Value
	}
	return m
}
