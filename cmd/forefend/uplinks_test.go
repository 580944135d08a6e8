package main

import (
	"testing"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// TestUplinkEvents: what is wrong with an uplink is told once, and again when it is another thing or comes back.
func TestUplinkEvents(t *testing.T) {
	kept := api.Uplink{Device: "eth0", Status: api.UplinkKept}
	foreign := api.Uplink{Device: "eth0", Status: api.UplinkForeign, Why: "eth0: somebody else's queueing discipline (tbf 1:)"}
	other := api.Uplink{Device: "eth0", Status: api.UplinkUnsupported, Why: "eth0: the kernel has no sch_htb"}
	told := make(map[string]string)
	for i, step := range []struct {
		now  api.Uplink
		want int
	}{{kept, 0}, {foreign, 1}, {foreign, 0}, {other, 1}, {kept, 0}, {other, 1}} {
		events := uplinkEvents([]api.Uplink{step.now}, told)
		if len(events) != step.want {
			t.Errorf("step %d: %+v", i, events)
		}
		for _, e := range events {
			if e.Kind != api.EventDegraded || e.Fields["uplink"] != "eth0" || e.Fields["status"] != step.now.Status {
				t.Errorf("step %d: %+v", i, e)
			}
		}
	}
}

// TestUplinkFixes: each status that is trouble has a way out of it.
func TestUplinkFixes(t *testing.T) {
	for _, status := range []string{api.UplinkForeign, api.UplinkUnsupported, api.UplinkAbsent, api.UplinkFailed} {
		if fixes[status] == "" {
			t.Errorf("nobody says what to do about %s", status)
		}
	}
}
