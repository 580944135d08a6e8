package shim

import (
	"encoding/json"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

// TestAsking: the agent's word on who asks counts among the containers of its pod, and nowhere else.
func TestAsking(t *testing.T) {
	of := func(id string) *container { return &container{id: workload.ID{Namespace: "k8s.io", Container: id}} }
	sandbox, web, batch := of("sandbox"), of("web"), of("batch")
	for name, c := range map[string]struct {
		seat *seat
		says string
		want []*container
	}{
		"no pod":               {&seat{c: web}, "batch", []*container{web}},
		"one that it names":    {&seat{c: sandbox, pod: true, members: []*container{web, batch}}, "batch", []*container{batch}},
		"the sandbox itself":   {&seat{c: sandbox, pod: true, members: []*container{web}}, "sandbox", []*container{sandbox}},
		"one that is not here": {&seat{c: sandbox, pod: true, members: []*container{web, batch}}, "stranger", []*container{web, batch}},
		"nobody is named":      {&seat{c: sandbox, pod: true, members: []*container{web}}, "", []*container{web}},
		"the sandbox is alone": {&seat{c: sandbox, pod: true}, "", []*container{sandbox}},
	} {
		got := c.seat.asking(c.says)
		same := len(got) == len(c.want)
		for i := range got {
			same = same && got[i] == c.want[i]
		}
		if !same {
			t.Errorf("%s: %d containers", name, len(got))
		}
	}
}

func TestFlowsOf(t *testing.T) {
	all := json.RawMessage(`[{"id":1,"context":{"container":"web"}},{"id":2,"context":{"container":"batch"}},{"id":3,"context":{}}]`)
	if got, err := flowsOf(all, "batch"); err != nil || string(got) != `[{"id":2,"context":{"container":"batch"}}]` {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := flowsOf(all, "none"); err != nil || string(got) != `[]` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := flowsOf(json.RawMessage(`{}`), "web"); err == nil {
		t.Error("an answer that makes no sense was taken")
	}
}
