package workload

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// TestObservationGolden reads what version 1 wrote. Stores hold such records
// for months: when this test has to change, ObservationVersion has to as well.
func TestObservationGolden(t *testing.T) {
	want := Observation{
		Version: 1, ID: ID{"default", "web"}, Run: "r1", Name: "redis -- redis-server", Keys: []Key{{LevelUser, "00ff"}, {LevelNode, "node"}},
		User: "alice", Group: "web", Image: "docker.io/library/redis:7",
		Started: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Ended: time.Date(2026, 1, 2, 4, 4, 5, 6, time.UTC), Final: true,
		Exit: Exit{Status: 137, Lost: true},
		Usage: Usage{
			MemoryPeak: 1, MemoryLast: 2, CPUSeconds: 3.5, CPUPeak: 4.5, PIDsPeak: 5, Throttled: 6.5, OOMKills: 7,
			MemoryFail: 8, ReadBytes: 9, WriteBytes: 10, Samples: 11, Series: []Point{{1, 2, 3, 4}},
		},
		Syscalls: map[string]uint64{"execve": 1}, Denied: map[string]uint64{"ptrace": 2}, Native: []string{"read"}, Watched: true,
		Destinations: map[string]uint64{"tcp/10.0.0.1:80": 3}, DestinationsLost: 4, RootfsWrites: No,
		Programs: map[string]uint64{"/bin/sh": 5}, ProgramsLost: 6,
		Trace: &Trace{From: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Names: []string{"execve"}, Packed: []byte{1, 2, 0, 1}, Lost: 7},
	}
	file := filepath.Join("testdata", "observation.v1.json")
	if *update {
		data, err := json.MarshalIndent(want, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got Observation
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || ObservationVersion != want.Version {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	// Fields that came later are zero in what was written before.
	later := map[string]bool{"Repository": true, "Program": true, "Requested": true, "Prior": true, "Predicted": true, "Findings": true, "Refused": true, "RefusedLost": true,
		"Served": true, "Serving": true, "Stopping": true, "Stopped": true, "Faults": true, "Ways": true, "Ahead": true, "Missed": true}
	fields := reflect.ValueOf(want)
	for i := range fields.NumField() {
		if fields.Field(i).IsZero() && !later[fields.Type().Field(i).Name] {
			t.Errorf("the golden file has no %s", fields.Type().Field(i).Name)
		}
	}
}
