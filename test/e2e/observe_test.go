package e2e

import (
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// patient gives a slow machine the time to find out whose run it is: without that, a run counts for its group alone.
const patient = "[deadlines]\nadmit = \"5s\"\npredict = \"5s\"\n"

// TestObservation checks what is kept of a run, against loads of a known size.
func TestObservation(t *testing.T) {
	h := newHost(t, harness.WithConfig(patient))
	const mib = 1 << 20
	for name, test := range map[string]struct {
		script string
		flags  []string
		kept   func(r run) bool
	}{
		"memory":      {"/probe grow 60 0 1500ms", nil, func(r run) bool { return r.Usage.MemoryPeak > 60*mib && r.Usage.MemoryPeak < 200*mib }},
		"CPU":         {"/probe spin 2s", nil, func(r run) bool { return r.Usage.CPUSeconds > 0.2 && r.Usage.CPUSeconds < 5 }},
		"processes":   {"/probe fork 10 1500ms", nil, func(r run) bool { return r.Usage.PIDsPeak > 10 }},
		"exit status": {"exit 42", nil, func(r run) bool { return r.Exit.Status == 42 }},
		"destinations": {"/probe connect tcp 127.0.0.1:9; /probe connect tcp 127.0.0.1:10; true", nil, func(r run) bool {
			return r.Destinations["tcp/127.0.0.1:9"] == 1 && r.Destinations["tcp/127.0.0.1:10"] == 1
		}},
		"writes":    {"echo x > /home/x", nil, func(r run) bool { return r.RootfsWrites == "yes" }},
		"no writes": {"cat /etc/passwd", nil, func(r run) bool { return r.RootfsWrites == "no" }},
		"OOM":       {"/probe grow 200; exit 3", []string{"--memory-limit=33554432"}, func(r run) bool { return r.Usage.OOMKills > 0 }},
		"calls":     {"mkdir /tmp/a /tmp/b; rmdir /tmp/a", nil, func(r run) bool { return r.Syscalls["mkdir"] == 2 && r.Syscalls["rmdir"] == 1 && r.Watched }},
	} {
		t.Run(name, func(t *testing.T) {
			marker := ": " + strings.ReplaceAll(name, " ", "-") + "; "
			h.run(sh(marker+test.script, append(test.flags, h.withProbe())...))
			row, runs := h.history(t, marker)
			if row.Runs != 1 || len(runs) != 1 || !runs[0].Final || !test.kept(runs[0]) {
				t.Errorf("kept as %+v", runs)
			}
		})
	}
	t.Run("while it runs", func(t *testing.T) {
		id := h.start(t, probe("grow", "40", "0", "1000s"))
		eventually(t, "usage in ps", func() bool {
			rows := h.ps(t)
			return slices.ContainsFunc(rows, func(r psRow) bool { return r.ID.Container == id && r.Usage.MemoryPeak > 40*mib })
		})
	})
}
