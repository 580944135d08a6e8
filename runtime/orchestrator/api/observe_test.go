package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

func TestObserveRequestIsCountedBeforeItIsDecoded(t *testing.T) {
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]" }
	for text, ok := range map[string]bool{
		`{"events":` + list(MaxEvents) + `}`:                   true,
		`{"events":` + list(MaxEvents+1) + `}`:                 false,
		`{"observations":` + list(MaxObservations) + `}`:       true,
		`{"observations":` + list(MaxObservations+1) + `}`:     false,
		`{"observations":[{"version":"x"}]}`:                   false,
		`{"events":[{"seq":-1}]}`:                              false,
		`{"version":1,"unknown":[1,2],"events":[null],"x":{}}`: true,
		`[]`: false,
	} {
		var r ObserveRequest
		if err := json.Unmarshal([]byte(text), &r); (err == nil) != ok {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func TestObserveRequestRoundTrip(t *testing.T) {
	want := ObserveRequest{
		Version: 1, Lost: 7,
		Observations: []workload.Observation{{Version: 1, Run: "r", Syscalls: map[string]uint64{"read": 2}, Started: time.Unix(5, 0).UTC()}},
		Events:       []Event{{Seq: 3, Kind: "denied", Fields: map[string]string{"a": "b"}}},
	}
	body, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got ObserveRequest
	if err := json.Unmarshal(body, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v: %v", want, got, err)
	}
}
