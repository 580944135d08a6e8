package network

import (
	"testing"

	"forefend.dev/forefend/netns/enter"
)

// Of makes a namespace that ends with the test.
func Of(t testing.TB) *enter.Namespace {
	t.Helper()
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// In runs f on a thread in a namespace, and ends the test where f fails.
func In(t testing.TB, ns *enter.Namespace, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}
