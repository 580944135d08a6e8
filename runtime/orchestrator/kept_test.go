package orchestrator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// Containers that were admitted and never came to be make room for others, the oldest first; those that run stay.
func TestKeepsABoundedNumberOfDecisions(t *testing.T) {
	for name, c := range map[string]struct{ containers, argument int }{"many": {3 * maxRunning, 10}, "large": {200, 1 << 20}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, nil)
			decision := func(i int) api.Decision {
				return api.Decision{Time: clock.Add(time.Duration(i)), Facts: workload.Facts{ID: containerID(fmt.Sprint("c", i)), Run: fmt.Sprint(i), Args: []string{strings.Repeat("x", c.argument)}}}
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			runs := containerID("runs")
			n.keepLocked(runs, &running{decision: api.Decision{Time: clock.Add(-time.Hour), Facts: workload.Facts{ID: runs}}, pid: 7})
			for i := range c.containers {
				d := decision(i)
				n.keepLocked(d.Facts.ID, &running{decision: d})
				if len(n.running) > maxRunning || n.kept > maxKept {
					t.Fatalf("%d containers with %d bytes are kept", len(n.running), n.kept)
				}
			}
			if n.running[runs] == nil || n.running[containerID(fmt.Sprint("c", c.containers-1))] == nil || n.running[containerID("c0")] != nil {
				t.Error("the wrong ones had to go")
			}
			sum := 0
			for id, r := range n.running {
				sum += r.size
				if got := r.decision.Size(); got != r.size {
					t.Fatalf("%s: %d bytes, counted %d", id, got, r.size)
				}
			}
			if sum != n.kept {
				t.Errorf("%d bytes are kept, counted %d", sum, n.kept)
			}
			for id := range n.running {
				n.dropLocked(id)
			}
			if n.kept != 0 {
				t.Errorf("nothing is kept, counted %d", n.kept)
			}
		})
	}
}

// What is too large to be sealed is decided, and not sealed.
func TestLargeDecisionsAreNotSealed(t *testing.T) {
	n := newNode(t, nil)
	req := request(t, "large")
	req.Facts.Args = []string{"x", strings.Repeat("y", maxSealed)}
	if _, err := n.Admit(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if len(n.seal) != 0 {
		t.Error("it waits to be sealed")
	}
	n.admit(t, "small")
	if len(n.seal) != 1 {
		t.Errorf("%d wait to be sealed", len(n.seal))
	}
}
