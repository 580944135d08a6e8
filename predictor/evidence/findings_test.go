package evidence

import (
	"fmt"
	"testing"
)

func TestFindingsWith(t *testing.T) {
	old := Findings{
		Anomalies:  []Anomaly{{Why: "a"}},
		Contacts:   []Contact{{Destination: "x", Feed: "f", Confidence: 0.1}, {Destination: "y", Feed: "f"}},
		Techniques: []Technique{{ID: "T1"}},
		Forecasts:  []Forecast{{Resource: "memory", Now: 1}, {Resource: "cpu"}},
	}
	got := old.With(Findings{
		Anomalies: []Anomaly{{Why: "b"}}, Contacts: []Contact{{Destination: "x", Feed: "f", Confidence: 0.9}},
		Forecasts: []Forecast{{Resource: "memory", Now: 2}},
	})
	if len(got.Anomalies) != 2 || len(got.Contacts) != 2 || got.Contacts[1].Confidence != 0.9 || len(got.Techniques) != 1 ||
		len(got.Forecasts) != 2 || got.Forecasts[1].Now != 2 {
		t.Errorf("%+v", got)
	}
	if len(old.Anomalies) != 1 || old.Contacts[0].Confidence != 0.1 || old.Forecasts[0].Now != 1 {
		t.Errorf("the old ones changed: %+v", old)
	}
	if got.Empty() || !(Findings{Forecasts: old.Forecasts}).Empty() {
		t.Error("a forecast is no finding, an anomaly is")
	}
}

func TestFindingsAreBounded(t *testing.T) {
	var f Findings
	for i := range 100 {
		f = f.With(Findings{Anomalies: []Anomaly{{Why: fmt.Sprint(i)}}, Contacts: []Contact{{Destination: fmt.Sprint(i)}}})
	}
	if len(f.Anomalies) != MaxFindings || f.Anomalies[MaxFindings-1].Why != "99" || len(f.Contacts) != MaxFindings {
		t.Errorf("%d anomalies, %d contacts", len(f.Anomalies), len(f.Contacts))
	}
	long := Findings{Techniques: make([]Technique, 50)}
	if got := long.Bounded(); len(got.Techniques) != MaxFindings {
		t.Errorf("%d", len(got.Techniques))
	}
}

func TestScanIsComplete(t *testing.T) {
	var none *Scan
	for want, s := range map[bool][]*Scan{
		false: {none, {}, {Syscalls: []string{"read"}, Unknown: []Unknown{{}}}},
		true:  {{Syscalls: []string{"read"}}},
	} {
		for _, s := range s {
			if s.Complete() != want {
				t.Errorf("%+v: %t", s, !want)
			}
		}
	}
}
