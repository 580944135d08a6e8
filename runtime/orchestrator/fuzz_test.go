package orchestrator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/workload"
)

// FuzzSpooled leaves anything in the spool. It is recorded, or set aside; either way the next round finds nothing to do.
func FuzzSpooled(f *testing.F) {
	for _, o := range []workload.Observation{observation("a", true), observation("b", false), {}} {
		body, err := json.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"version":1,"id":{"namespace":"..","container":"/"},"run":"x"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"started":"9999-12-31T23:59:59Z","usage":{"memory_peak":-9223372036854775808},"final":true}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		n := newNode(t, nil)
		if err := os.MkdirAll(n.cfg.SpoolDir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(n.cfg.SpoolDir, "x.json")
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.takeSpool(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Fatal("it is still there")
		}
		_, err := os.Lstat(path + damagedSpool)
		if kept := len(n.history.observations()); (kept == 1) == (err == nil) {
			t.Fatalf("%d recorded, set aside: %v", kept, err == nil)
		}
		if o := n.history.observations(); len(o) == 1 && (o[0].ID.Validate() != nil || o[0].Version != workload.ObservationVersion) {
			t.Errorf("recorded %+v", o[0])
		}
		if _, err := readObservation(path); err == nil || errdefs.IsInvalidArgument(err) {
			t.Errorf("what is gone is read: %v", err)
		}
	})
}
