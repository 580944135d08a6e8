// Package root guards tests that need root.
package root

import (
	"os"
	"testing"
)

// Test skips a test that needs root, and maybe a container runtime, unless it was asked for: `make test-root` sets
// FOREFEND_ROOT_TESTS=1. Asked for without being root, it fails: a skip would hide that nothing was tested.
func Test(t testing.TB) {
	t.Helper()
	if os.Getenv("FOREFEND_ROOT_TESTS") != "1" {
		t.Skip("root test: run make test-root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("FOREFEND_ROOT_TESTS=1 but not root")
	}
}
