package main

import (
	"bytes"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// A change that was refused as a whole does not read like one that is in force.
func TestPrintAdjusted(t *testing.T) {
	for status, want := range map[string]string{
		api.ResultApplied: "Revision 2 is in force.", api.ResultRefused: "Nothing was changed; revision 2 is in force.",
		api.ResultFailed: "Nothing was changed; revision 2 is in force.",
	} {
		var out bytes.Buffer
		err := (&app{stdout: &out}).printAdjusted(api.AdjustResponse{
			Decision: api.Decision{Revision: 2}, Results: []api.Result{{Lever: "resources", Status: status, Changed: []string{"memory 64 MiB -> 16 MiB"}}},
		}, false)
		if err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s", status, err, out.String())
		}
	}
}
