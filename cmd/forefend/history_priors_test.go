package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// What one node has learned is exported beside its running daemon and read by another.
func TestExportPriors(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	config, out := filepath.Join(dir, "config.toml"), filepath.Join(dir, "priors")
	if err := os.WriteFile(config, fmt.Appendf(nil, "root = %q\n", filepath.Join(dir, "root")), 0o600); err != nil {
		t.Fatal(err)
	}
	export := func() (int, string) {
		var stdout, stderr bytes.Buffer
		code := run(ctx, &app{stdout: &stdout, stderr: &stderr, now: time.Now}, []string{"--config", config, "history", "export-priors", out})
		return code, stderr.String()
	}
	if code, said := export(); code != 4 || !strings.Contains(said, "no history has been saved") {
		t.Errorf("exit code %d: %s", code, said)
	}
	s, err := store.Open(ctx, filepath.Join(dir, "root", "store"), store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	book, err := history.Open(ctx, s, history.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tool := workload.Facts{Image: workload.Image{Repository: "tool", Digest: "sha256:1"}, Args: []string{"tool", "run"}}
	o := workload.Observation{Version: workload.ObservationVersion, Run: "1", Final: true, Started: clock, Ended: clock.Add(time.Minute),
		Usage: workload.Usage{MemoryPeak: 100 << 20}}
	tool.Describe(&o)
	if err := book.Record(ctx, o); err != nil {
		t.Fatal(err)
	}
	if err := book.Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	if code, said := export(); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	priors, err := readPriors(out)
	if err != nil {
		t.Fatal(err)
	}
	other, err := store.Open(ctx, filepath.Join(dir, "other"), store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	node, err := history.Open(ctx, other, history.Options{Priors: priors})
	if err != nil {
		t.Fatal(err)
	}
	tool.Image.Repository, tool.Image.Digest = "elsewhere/tool", "sha256:2"
	if p := node.Predict(tool.Query()); p.Memory.Value < 100<<20 || !strings.Contains(p.Memory.Basis, "alike by program:tool") {
		t.Errorf("%+v", p.Memory)
	}
}

func TestReadPriors(t *testing.T) {
	if p, err := readPriors(""); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
	file := filepath.Join(t.TempDir(), "x")
	if _, err := readPriors(file); err == nil || !strings.Contains(err.Error(), "export-priors") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPriors(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}
