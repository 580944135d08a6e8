package monitor

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// feeds list one address and know one pattern.
type feeds struct{}

func (feeds) Contacts(_ time.Time, destinations []string) (out []evidence.Contact) {
	for _, d := range destinations {
		if d == "tcp/192.0.2.66:443" {
			out = append(out, evidence.Contact{Destination: d, Feed: "test", Confidence: 0.9})
		}
	}
	return out
}

func (feeds) Techniques(o *workload.Observation, p Program) (out []evidence.Technique) {
	if o.Syscalls["unshare"] > 0 {
		out = append(out, evidence.Technique{ID: "T1611", Confidence: 0.5, Severity: 0.9, Why: p.Path})
	}
	return out
}

func report(run string, after time.Duration, change func(*workload.Observation)) *workload.Observation {
	o := &workload.Observation{
		Version: 1, Run: run, Started: clock, Keys: []workload.Key{{Level: workload.LevelDigestCommand, Value: "aa"}},
		Usage: workload.Usage{MemoryLast: 10 << 20, MemoryPeak: 10 << 20, CPUSeconds: after.Seconds() / 100}, Watched: true,
		Destinations: map[string]uint64{"tcp/10.0.0.1:5432": 1}, Programs: map[string]uint64{"/usr/sbin/nginx": 1},
	}
	if change != nil {
		change(o)
	}
	return o
}

func ended(o *workload.Observation) { o.Final = true }

// ran lets a workload run so often, an hour each, as it always does.
func ran(m *Monitor, times int) {
	for i := range times {
		name := fmt.Sprint("run", i)
		for _, at := range []time.Duration{10 * time.Second, 30 * time.Minute} {
			m.Observe(report(name, at, nil), Subject{}, clock.Add(at))
		}
		m.Observe(report(name, time.Hour, ended), Subject{}, clock.Add(time.Hour))
	}
}

func TestContactsAndTechniquesAreFoundOnce(t *testing.T) {
	m := New(Limits{}, feeds{})
	bad := func(o *workload.Observation) {
		o.Destinations["tcp/192.0.2.66:443"] = 1
		o.Syscalls = map[string]uint64{"unshare": 1}
	}
	s := Subject{Program: Program{Path: "/bin/evil"}}
	if found, fresh := m.Observe(report("r", 10*time.Second, nil), s, clock.Add(10*time.Second)); !found.Empty() || !fresh.Empty() {
		t.Errorf("an honest report: %+v", found)
	}
	found, fresh := m.Observe(report("r", 20*time.Second, bad), s, clock.Add(20*time.Second))
	if len(fresh.Contacts) != 1 || len(fresh.Techniques) != 1 || fresh.Techniques[0].Why != "/bin/evil" || len(found.Contacts) != 1 {
		t.Errorf("%+v", fresh)
	}
	found, fresh = m.Observe(report("r", 30*time.Second, bad), s, clock.Add(30*time.Second))
	if len(fresh.Contacts)+len(fresh.Techniques) != 0 || len(found.Contacts) != 1 || len(found.Techniques) != 1 {
		t.Errorf("told again: %+v, in all %+v", fresh, found)
	}
	caught := clock.Add(20 * time.Second)
	if !found.Contacts[0].Seen.Equal(caught) || !found.Techniques[0].Seen.Equal(caught) {
		t.Errorf("caught again although nothing was added: %+v", found)
	}
	found, fresh = m.Observe(report("r", 40*time.Second, func(o *workload.Observation) {
		bad(o)
		o.Destinations["tcp/192.0.2.66:443"], o.Syscalls["unshare"] = 2, 2
	}), s, clock.Add(40*time.Second))
	caught = clock.Add(40 * time.Second)
	if len(fresh.Contacts)+len(fresh.Techniques) != 0 || !found.Contacts[0].Seen.Equal(caught) || !found.Techniques[0].Seen.Equal(caught) {
		t.Errorf("done again: %+v, news %+v", found, fresh)
	}
}

// A listed destination that was refused is a contact that did not come about.
func TestRefusedContacts(t *testing.T) {
	m := New(Limits{}, feeds{})
	bad := func(o *workload.Observation) {
		o.Destinations["tcp/192.0.2.66:443"] = 1 // a connect is a connect
		o.Refused = map[string]uint64{"tcp/192.0.2.66:443": 3, "tcp/10.0.0.9:1": 1}
	}
	_, fresh := m.Observe(report("r", 20*time.Second, bad), Subject{}, clock.Add(20*time.Second))
	if len(fresh.Contacts) != 1 || !fresh.Contacts[0].Refused {
		t.Errorf("%+v", fresh.Contacts)
	}
	if _, fresh := m.Observe(report("r", 30*time.Second, bad), Subject{}, clock.Add(30*time.Second)); len(fresh.Contacts) != 0 {
		t.Errorf("told again: %+v", fresh.Contacts)
	}
}

// What a workload did in earlier runs is no anomaly, a program it never ran is one.
func TestBaselineOfEarlierRuns(t *testing.T) {
	m := New(Limits{}, nil)
	ran(m, 12)
	again := report("now", 10*time.Second, nil)
	if _, fresh := m.Observe(again, Subject{}, clock.Add(10*time.Second)); len(fresh.Anomalies) != 0 {
		t.Errorf("as always: %+v", fresh.Anomalies)
	}
	odd := report("now", time.Minute, func(o *workload.Observation) { o.Programs["/tmp/xmrig"] = 1 })
	_, fresh := m.Observe(odd, Subject{}, clock.Add(time.Minute))
	if len(fresh.Anomalies) != 1 || fresh.Anomalies[0].Kind != evidence.AnomalyPrograms {
		t.Errorf("a program never seen: %+v", fresh.Anomalies)
	}
	if m.Runs() != 1 {
		t.Errorf("%d runs are followed", m.Runs())
	}
}

func TestForecastOfAGrowingContainer(t *testing.T) {
	m := New(Limits{Memory: 1 << 30, CPUs: 4, PIDs: 1000}, nil)
	s := Subject{Limits: Limits{Memory: 400 << 20}}
	var found evidence.Findings
	for i := range 60 {
		at := time.Duration(i+1) * 10 * time.Second
		found, _ = m.Observe(report("leak", at, func(o *workload.Observation) {
			o.Usage.MemoryLast = int64(50<<20 + i*5<<20)
		}), s, clock.Add(at))
	}
	if len(found.Forecasts) != 3 || found.Forecasts[0].Resource != "memory" {
		t.Fatalf("%+v", found.Forecasts)
	}
	f := found.Forecasts[0]
	if f.Limit != 400<<20 || f.Probability < 0.5 || f.TimeToLimit <= 0 || f.TimeToLimit > 10*time.Minute || f.Slope <= 0 {
		t.Errorf("it reaches its limit in a minute and a half: %+v", f)
	}
}

func TestBaselinesSurvive(t *testing.T) {
	m := New(Limits{}, nil)
	ran(m, 12)
	var kept bytes.Buffer
	save := func(w io.WriterTo) error { _, err := w.WriteTo(&kept); return err }
	if err := m.Save(save); err != nil {
		t.Fatal(err)
	}
	if err := m.Save(func(io.WriterTo) error { t.Error("written although nothing was learned"); return nil }); err != nil {
		t.Fatal(err)
	}
	next := New(Limits{}, nil)
	if err := next.Load(&kept); err != nil {
		t.Fatal(err)
	}
	odd := report("now", time.Minute, func(o *workload.Observation) { o.Programs["/tmp/xmrig"] = 1 })
	if _, fresh := next.Observe(odd, Subject{}, clock.Add(time.Minute)); len(fresh.Anomalies) != 1 {
		t.Errorf("%+v", fresh.Anomalies)
	}
	for _, damaged := range []string{"", "{}", `{"version":2,"baselines":{}}`} {
		if err := New(Limits{}, nil).Load(bytes.NewReader([]byte(damaged))); err == nil {
			t.Errorf("%q was taken", damaged)
		}
	}
}

func TestMonitorIsBounded(t *testing.T) {
	m := New(Limits{}, nil)
	for i := range maxRuns + maxBaselines {
		now := clock.Add(time.Duration(i) * time.Second)
		o := report(fmt.Sprint(i), time.Second, func(o *workload.Observation) { o.Keys[0].Value, o.Started = fmt.Sprint(i), now })
		m.Observe(o, Subject{}, now)
	}
	if len(m.runs) > maxRuns || len(m.baselines) > maxBaselines {
		t.Errorf("%d runs, %d baselines", len(m.runs), len(m.baselines))
	}
	if m.runs[fmt.Sprint(maxRuns+maxBaselines-1)] == nil {
		t.Error("the newest was dropped")
	}
	m.Forget(fmt.Sprint(maxRuns + maxBaselines - 1))
	if m.runs[fmt.Sprint(maxRuns+maxBaselines-1)] != nil {
		t.Error("not forgotten")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(`{"version":1,"baselines":{"image+command:aa":{"heard":"2026-03-01T12:00:00Z","model":{"version":1}}}}`))
	f.Add([]byte(`{"version":1,"baselines":{"x":{"model":null}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m := New(Limits{}, nil)
		if m.Load(bytes.NewReader(body)) != nil && len(m.baselines) > 0 {
			t.Error("half of it was taken")
		}
		m.Observe(report("r", time.Second, func(o *workload.Observation) { o.Keys[0].Value = "aa" }), Subject{}, clock.Add(time.Second))
	})
}

// An agent that breaks the rules of its channel is found out each time it does, and half a record counts for less.
func TestAgentThatBreaksItsChannel(t *testing.T) {
	m := New(Limits{}, nil)
	broke := func(faults map[string]uint64) func(*workload.Observation) {
		return func(o *workload.Observation) { o.Faults = faults }
	}
	if found, _ := m.Observe(report("r", 10*time.Second, nil), Subject{}, clock); !found.Empty() {
		t.Errorf("an honest report: %+v", found)
	}
	for i, step := range []struct {
		faults     map[string]uint64
		confidence float64 // 0: nothing new is found
	}{
		{map[string]uint64{"truncated": 1}, 0.3}, {map[string]uint64{"truncated": 1}, 0},
		{map[string]uint64{"truncated": 1, "tampered": 1}, 0.9}, {map[string]uint64{"truncated": 1, "tampered": 2}, 0.9},
	} {
		now := clock.Add(time.Duration(i+2) * time.Minute)
		found, fresh := m.Observe(report("r", now.Sub(clock), broke(step.faults)), Subject{}, now)
		if (len(fresh.Techniques) == 1) != (step.confidence > 0) || len(found.Techniques) != 1 {
			t.Fatalf("%v: fresh %+v, found %+v", step.faults, fresh.Techniques, found.Techniques)
		}
		if step.confidence > 0 && (fresh.Techniques[0].Confidence != step.confidence || !found.Techniques[0].Seen.Equal(now)) {
			t.Errorf("%v: %+v", step.faults, fresh.Techniques[0])
		}
	}
}

// What a gateway's receipts contradict is another technique than a broken channel, and both are found at once.
func TestReceiptsThatContradict(t *testing.T) {
	m := New(Limits{}, nil)
	m.Observe(report("r", 10*time.Second, nil), Subject{}, clock)
	now := clock.Add(time.Minute)
	_, fresh := m.Observe(report("r", time.Minute, func(o *workload.Observation) {
		o.Faults = map[string]uint64{workload.ReceiptFault + "differs": 2, "tampered": 1}
	}), Subject{}, now)
	var ids []string
	for _, f := range fresh.Techniques {
		ids = append(ids, f.ID)
		if contradicted := f.ID == "T1048"; contradicted != strings.Contains(f.Why, "differs") || f.Confidence != 0.9 {
			t.Errorf("%+v", f)
		}
	}
	if slices.Sort(ids); !slices.Equal(ids, []string{"T1048", "T1562.001"}) {
		t.Errorf("found %v", ids)
	}
}
