package shim

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/shutdown"
)

func TestOrphan(t *testing.T) {
	for _, c := range []struct {
		name       string
		used, gone bool
		ends       bool
	}{{"never used, bundle gone", false, true, true}, {"waits for its container", false, false, false}, {"used", true, true, false}} {
		t.Run(c.name, func(t *testing.T) {
			_, sd := shutdown.WithShutdown(t.Context())
			var used atomic.Bool
			used.Store(c.used)
			asked := make(chan bool, 100)
			endWhenOrphaned(sd, &used, func() bool { asked <- true; return c.gone }, time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), map[bool]time.Duration{true: 10 * time.Second, false: 50 * time.Millisecond}[c.ends])
			defer cancel()
			select {
			case <-sd.Done():
				if !c.ends {
					t.Error("it has ended")
				}
			case <-ctx.Done():
				if c.ends {
					t.Error("it goes on")
				}
				if !c.used && len(asked) < 2 {
					t.Error("it looked once only")
				}
				sd.Shutdown()
			}
		})
	}
}

func TestBundleGone(t *testing.T) {
	dir := t.TempDir() + "/bundle"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if bundleGone() {
		t.Error("it is there")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if !bundleGone() {
		t.Error("it was removed")
	}
}
