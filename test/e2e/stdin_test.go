package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestStdinThatEndsEarly pipes a finished input into a container that reads to
// its end: under the stock shim of 2.4.2 this hangs (docs/decisions/0008).
func TestStdinThatEndsEarly(t *testing.T) {
	h := newHost(t)
	for i := range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := h.CtrCommand(ctx, "run", "--rm", "--runtime", "io.containerd.forefend.v1", harness.Image("busybox"), "early"+string(rune('a'+i)), "cat")
		cmd.Stdin = strings.NewReader("abc")
		out, err := cmd.Output()
		cancel()
		if err != nil || string(out) != "abc" {
			t.Fatalf("try %d: %q %v", i, out, err)
		}
	}
}
