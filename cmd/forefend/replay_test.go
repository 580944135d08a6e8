package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/cmd/forefend/replay"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// recordedRuns are as many runs of one server, an hour each, admitted under the default settings with a limit of 256 MiB; change may
// alter what is seen of each.
func recordedRuns(t *testing.T, n int, change func(int, *workload.Observation)) (runs []replay.Run) {
	t.Helper()
	limit := int64(256 << 20)
	spec := specs.Spec{
		Process: &specs.Process{Args: []string{"server"}, Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}},
	}
	for i := range n {
		began := clock.Add(time.Duration(i-n) * 2 * time.Hour)
		facts := workload.Facts{
			ID: workload.ID{Namespace: "default", Container: "server-" + string(rune('a'+i))}, Run: "run-" + string(rune('a'+i)), Args: []string{"server"},
			Image: workload.Image{Name: "docker.io/library/server:1", Repository: "docker.io/library/server", Digest: "sha256:0123"},
		}
		d, err := admit.Decide(admit.Input{
			Request: api.AdmitRequest{Version: api.Version, Facts: facts, Spec: spec, ListenerPath: "/run/x"},
			Site:    config.Default().Site, Prediction: workload.Prediction{Unseen: 1}, Now: began,
		})
		if err != nil {
			t.Fatal(err)
		}
		o := workload.Observation{
			Version: workload.ObservationVersion, ID: facts.ID, Run: facts.Run, Started: began, Ended: began.Add(time.Hour), Final: true, Watched: true,
			Usage:    workload.Usage{MemoryPeak: 40 << 20, MemoryLast: 30 << 20, CPUSeconds: 3, CPUPeak: 0.2, PIDsPeak: 4, Samples: 60},
			Syscalls: map[string]uint64{"execve": 1, "socket": 2, "bind": 1, "openat": 30}, RootfsWrites: workload.Yes,
		}
		facts.Describe(&o)
		if change != nil {
			change(i, &o)
		}
		runs = append(runs, replay.Run{Seen: o, Decided: &d})
	}
	return runs
}

func replayed(t *testing.T, text string, runs []replay.Run, since time.Time) replay.Report {
	t.Helper()
	path := filepath.Join(t.TempDir(), "new.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decideAgain(t.Context(), filepath.Join(t.TempDir(), "store"), settings, runs, since)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Under the settings it ran with, a workload without surprises loses nothing; sealed and enforced, the run that does
// something new is the one that breaks, and the ones before teach.
func TestReplayEnforced(t *testing.T) {
	runs := recordedRuns(t, 8, func(i int, o *workload.Observation) {
		if i == 7 {
			o.Syscalls["mknod"] = 1
		}
	})
	same := replayed(t, "", runs, time.Time{})
	if same.Runs != 8 || len(same.Workloads) != 1 || same.Workloads[0].Broken != 0 || same.Workloads[0].Mode != "adaptive" {
		t.Errorf("under the same settings: %+v", same)
	}
	strict := replayed(t, "mode = \"enforce\"\n[prediction]\nseal = 1\n", runs, time.Time{})
	w := strict.Workloads[0]
	if w.Runs != 8 || w.Broken != 1 || w.Denied["mknod"] != 1 || len(w.Denied) != 1 || w.Mode != "enforce" {
		t.Errorf("enforced: %+v", w)
	}
	if recent := replayed(t, "mode = \"enforce\"\n[prediction]\nseal = 1\n", runs, runs[7].Seen.Started); recent.Runs != 1 || recent.Workloads[0].Denied["mknod"] != 1 {
		t.Errorf("of the last run alone, with all before as history: %+v", recent)
	}
}

// Limits of the new settings: what kills, what is cut off, and what is saved in GB·h.
func TestReplayLimits(t *testing.T) {
	runs := recordedRuns(t, 4, func(i int, o *workload.Observation) {
		if i == 3 {
			o.Usage.MemoryPeak, o.Usage.PIDsPeak = 100<<20, 50
			o.Destinations = map[string]uint64{"tcp/192.0.2.1:443": 1}
		}
	})
	r := replayed(t, "[guardrails]\nmemory = { max = \"64Mi\" }\npids = { max = 20 }\nnetwork = \"off\"\nreadonly_root = \"on\"\n", runs, time.Time{})
	w := r.Workloads[0]
	if w.Killed != 1 || w.Forks != 1 || w.Cut != 1 || w.Writes != 4 || w.Broken != 4 || w.Limited != 4 {
		t.Errorf("%+v", w)
	}
	if want := 4 * float64(192<<20) / 1e9; w.Saved < want-1e-9 {
		t.Errorf("saved %v GB·h of memory, at least %v are", w.Saved, want)
	}
}

// What cannot be told is said, and counted.
func TestReplayIsHonest(t *testing.T) {
	runs := recordedRuns(t, 3, func(i int, o *workload.Observation) {
		switch i {
		case 0:
			o.Watched = false
		case 1:
			o.Usage.OOMKills = 1
		}
	})
	runs[2].Decided = nil
	r := replayed(t, "", runs, time.Time{})
	all := strings.Join(r.Unknown, "\n")
	for _, part := range []string{"1 runs are left out: the journal", "of 1 runs nobody watched", "1 runs came up to their memory limit", "at full speed"} {
		if !strings.Contains(all, part) {
			t.Errorf("%q is not said:\n%s", part, all)
		}
	}
	if r.Runs != 2 {
		t.Errorf("%d runs", r.Runs)
	}
	if none := replayed(t, "", nil, time.Time{}); len(none.Workloads)+len(none.Unknown) != 0 {
		t.Errorf("of nothing: %+v", none)
	}
}

// The table of a site that changes its safeguards is what judges.
func TestReplayJudgesByTheNewTable(t *testing.T) {
	runs := recordedRuns(t, 6, func(i int, o *workload.Observation) { o.Syscalls["mknod"] = 1 })
	for i := range runs {
		runs[i].Decided.Scan = &api.Scan{Syscalls: []string{"read", "execve", "socket", "bind", "openat"}, Entry: "/server"}
		runs[i].Decided.Findings.Techniques = append(runs[i].Decided.Findings.Techniques, evidence.Technique{ID: "T1611", Name: "Escape to Host", Confidence: 0.9, Severity: 0.9})
	}
	first := func(text string) replay.Workload { return replayed(t, text, runs[:1], time.Time{}).Workloads[0] }
	if w := first(""); w.Denied["mknod"] != 1 {
		t.Errorf("with the default table: %+v", w)
	}
	if w := first("[safeguards]\nhigh = []\ncritical = []\n"); len(w.Denied) != 0 {
		t.Errorf("with an empty table: %+v", w)
	}
}
