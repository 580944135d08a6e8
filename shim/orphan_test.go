package shim

import (
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
			defer sd.Shutdown()
			asked := make(chan bool)
			endWhenOrphaned(sd, &used, func() bool {
				select {
				case asked <- true:
				case <-sd.Done():
				}
				return c.gone
			}, time.Millisecond)
			looks, wait := 2, time.Minute // it goes on looking, and does not end
			if c.ends {
				looks = 1
			}
			if c.used { // nothing is to happen, which nobody tells
				looks, wait = 1, 50*time.Millisecond
			}
			late := time.After(wait)
			for range looks {
				select {
				case <-asked:
					if c.used {
						t.Error("it looks although it was used")
					}
				case <-sd.Done():
					t.Error("it has ended")
				case <-late:
					if !c.used {
						t.Error("it does not look")
					}
				}
			}
			if c.ends {
				select {
				case <-sd.Done():
				case <-late:
					t.Error("it goes on")
				}
			} else if sd.Err() != nil {
				t.Error("it has ended")
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
