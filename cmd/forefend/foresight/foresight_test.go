package foresight

import (
	"context"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/monitor"
	"forefend.dev/forefend/predictor/risk"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func request() *api.AdmitRequest {
	return &api.AdmitRequest{Facts: workload.Facts{
		ID: workload.ID{Namespace: "n", Container: "c"}, Run: "r", Args: []string{"server"}, Rootfs: []string{"/upper", "/1"},
		Image: workload.Image{Digest: "sha256:a"},
	}}
}

// known are sources of which the judge tells what it was given.
func known(t *testing.T, given *Known) *Sources {
	return &Sources{
		History: func(q workload.Query) workload.Prediction {
			if q.Prior.Typical == 0 {
				return workload.Prediction{Unseen: 1}
			}
			return workload.Prediction{Runs: 3, Level: "image+command"}
		},
		Load: func() (evidence.Load, bool) {
			return evidence.Load{CPU: 0.9, Tight: map[string]string{"cpu": "busy"}}, true
		},
		Scans: scans.New(scans.Options{Results: t.TempDir(), Bytes: 1 << 20, Wait: time.Second, Scan: func(context.Context, scans.Request) (evidence.Scan, error) {
			return evidence.Scan{Version: evidence.ScanVersion, Syscalls: []string{"read"}, Memory: evidence.MemoryPrior{Typical: 1 << 20}}, nil
		}}),
		Judge: func(k Known) Judgement {
			*given = k
			return Judgement{Risk: &evidence.Risk{Score: 10, Level: evidence.Low}, Notes: []string{"judged"}}
		},
	}
}

func statuses(list []api.Source) string {
	var words []string
	for _, s := range list {
		words = append(words, s.Name+"="+s.Status)
	}
	return strings.Join(words, " ")
}

// Without a scan the answer says that it is worth waiting; with it the scan's memory prior reaches the history.
func TestForesee(t *testing.T) {
	var k Known
	s := known(t, &k)
	f := s.Foresee(t.Context(), request())
	if f.Wait != time.Second || f.Scan != nil || statuses(f.Sources) != "scan=late history=absent profile=absent threats=absent load=ok" {
		t.Errorf("wait %v, %s", f.Wait, statuses(f.Sources))
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Scans.Run(ctx) }()
	s.Await(ctx, request().Facts)
	f = s.Foresee(ctx, request())
	stop()
	<-done
	if f.Wait != 0 || f.Scan == nil || f.Prediction.Runs != 3 || f.Risk.Score != 10 || f.Notes[0] != "judged" || k.Scan != f.Scan || k.Load == nil ||
		statuses(f.Sources) != "scan=ok history=ok profile=absent threats=absent load=ok" {
		t.Errorf("%+v: %s", f, statuses(f.Sources))
	}
}

// Whoever has used up the time, what is in memory is asked.
func TestForeseeLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var k Known
	f := known(t, &k).Foresee(ctx, request())
	if statuses(f.Sources) != "scan=late history=absent profile=absent threats=absent load=ok" || f.Wait != 0 {
		t.Errorf("%s, wait %v", statuses(f.Sources), f.Wait)
	}
}

func TestNothingIsThere(t *testing.T) {
	s := &Sources{History: func(workload.Query) workload.Prediction { return workload.Prediction{} }, Judge: func(Known) Judgement { return Judgement{} }}
	f := s.Foresee(t.Context(), request())
	if statuses(f.Sources) != "scan=absent history=absent profile=absent threats=absent load=absent" {
		t.Error(statuses(f.Sources))
	}
	s.Await(t.Context(), request().Facts)
	if p := s.Profile(api.ProfileRequest{}); len(p.Standings) != 0 {
		t.Errorf("%+v", p)
	}
}

func TestEventsOfFindings(t *testing.T) {
	o := &workload.Observation{ID: workload.ID{Namespace: "n", Container: "c"}, Run: "r"}
	growing := evidence.Forecast{Resource: "memory", Limit: 1 << 30, Probability: 0.9, TimeToLimit: 90 * time.Second, Horizon: 10 * time.Minute}
	fresh := evidence.Findings{
		Anomalies:  []evidence.Anomaly{{Kind: evidence.AnomalyPrograms, Why: "executed /tmp/x"}},
		Contacts:   []evidence.Contact{{Destination: "tcp/192.0.2.1:80", Feed: "drop", Indicator: "192.0.2.0/24"}},
		Techniques: []evidence.Technique{{ID: "T1611", Name: "Escape to Host"}},
		Forecasts:  []evidence.Forecast{growing},
	}
	var kinds []string
	for _, e := range events(o, fresh, evidence.Findings{}, clock) {
		kinds = append(kinds, e.Kind)
		if e.ID != o.ID || e.Run != "r" || e.Message == "" || !e.Time.Equal(clock) {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(kinds, " "); got != "anomaly threat threat forecast" {
		t.Error(got)
	}
	// A limit that stays near is told of once, and again only after it was far.
	for before, want := range map[float64]int{0.9: 0, 0.3: 0, 0.1: 1} {
		was := growing
		was.Probability = before
		f := evidence.Findings{Forecasts: []evidence.Forecast{was}}
		if got := len(events(o, evidence.Findings{Forecasts: []evidence.Forecast{growing}}, f, clock)); got != want {
			t.Errorf("after probability %v: %d events", before, got)
		}
	}
}

func TestWatcher(t *testing.T) {
	w := &Watcher{Monitor: monitor.New(monitor.Limits{}, nil), Now: func() time.Time { return clock.Add(time.Minute) }}
	o := &workload.Observation{Run: "r", Started: clock, Usage: workload.Usage{MemoryLast: 1 << 20}}
	found, news := w.Watch(o, api.Decision{}, evidence.Findings{})
	if len(found.Forecasts) != 3 || len(news) != 0 || w.Reassess(api.Decision{}, found) != nil || w.Monitor.Runs() != 1 {
		t.Errorf("%+v %+v", found, news)
	}
	w.Forget("r")
	if w.Monitor.Runs() != 0 {
		t.Error("not forgotten")
	}
}

// What a container is not found at again fades; what spoke against it from the start does not.
func TestReassessFades(t *testing.T) {
	past := evidence.Findings{Contacts: []evidence.Contact{{Destination: "tcp/192.0.2.9:1", Feed: "f", Confidence: 0.2}}}
	d := api.Decision{Findings: past}
	first := risk.Assess(risk.Input{Contacts: past.Contacts, Known: true})
	d.Risk = &first
	found := evidence.Findings{
		Contacts:   []evidence.Contact{{Destination: "tcp/192.0.2.1:1", Feed: "f", Confidence: 0.9, Seen: clock}},
		Techniques: []evidence.Technique{{ID: "T1611", Confidence: 0.8, Severity: 0.9, Seen: clock}},
		Anomalies:  []evidence.Anomaly{{Kind: evidence.AnomalyPrograms, Score: 4, Threshold: 1, Time: clock}},
	}
	last := 101.0
	for minutes := range 30 {
		r := Reassess(d, found, clock.Add(time.Duration(minutes)*time.Minute), 5*time.Minute)
		switch {
		case minutes == 0 && r.Level != evidence.Critical:
			t.Errorf("at first: %+v", r)
		case r.Score > last, r.Score < first.Score-1e-9:
			t.Errorf("after %d minutes %v, before %v, at first %v", minutes, r.Score, last, first.Score)
		}
		last = r.Score
	}
	if last > first.Score+1e-9 {
		t.Errorf("after half an hour of calm %v, at the start %v", last, first.Score)
	}
	if r := Reassess(d, found, clock.Add(30*24*time.Hour), 0); r.Level != evidence.Critical {
		t.Errorf("without fading: %+v", r)
	}
	if Reassess(api.Decision{}, found, clock, time.Minute) != nil {
		t.Error("a risk of what was never judged")
	}
}
