package orchestrator

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// counts is a Meter that writes down what it is told.
type counts struct {
	mu   sync.Mutex
	said []string // guarded by mu
}

func (c *counts) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

func (c *counts) Decided(o Outcome) {
	c.add("%s %s %v %s %v", o.Operation, o.Mode, o.Sealed, o.Availability, o.Err != nil)
}

func (c *counts) Observed(n int, lost uint64, _ time.Duration, err error) {
	c.add("observed %d, lost %d, %v", n, lost, err != nil)
}

func (c *counts) Published(kind string) { c.add("published %s", kind) }

func TestMeterIsTold(t *testing.T) {
	c := &counts{}
	n := newNode(t, func(cfg *Config) { cfg.Meter = c })
	d := n.admit(t, "web")
	dry := request(t, "web")
	dry.DryRun = true
	if _, err := n.Admit(t.Context(), dry); err != nil {
		t.Fatal(err)
	}
	bad := request(t, "bad")
	bad.Facts.Annotations = map[string]string{policy.Prefix + "memory": "lots"}
	if _, err := n.Admit(t.Context(), bad); err == nil {
		t.Fatal("accepted")
	}
	for _, refused := range []bool{false, true} {
		if _, err := n.Update(t.Context(), api.UpdateRequest{Version: api.Version, ID: d.Facts.ID, Before: d, Refused: refused}); err != nil {
			t.Fatal(err)
		}
	}
	if standing := n.Standing(); len(standing) != 1 || standing[Standing{"adaptive", false, api.ByDaemon}] != 1 {
		t.Errorf("standing %v", standing)
	}
	alone := api.Event{Kind: api.EventAdmitted, Fields: map[string]string{"availability": "last-known", "mode": "enforce", "sealed": "true"}}
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Lost: 2, Events: []api.Event{alone, {Kind: api.EventWatched}},
		Observations: []workload.Observation{observation("web", true)}}); err != nil {
		t.Fatal(err)
	}
	if err := n.Observe(t.Context(), api.ObserveRequest{Version: api.Version + 1}); err == nil {
		t.Fatal("accepted")
	}
	want := []string{
		"published admitted", "admit adaptive false daemon false", // the dry run is nobody's decision
		"admit  false  true",
		"update adaptive false daemon false", "revert adaptive false daemon false",
		"alone enforce true last-known false", "published admitted", "published watched", "published degraded", "published exited", "observed 1, lost 2, false",
		"observed 0, lost 0, true",
	}
	if fmt.Sprint(c.said) != fmt.Sprint(want) {
		t.Errorf("got\n%q\nwant\n%q", c.said, want)
	}
}

func TestCalled(t *testing.T) {
	for want, f := range map[string]workload.Facts{
		"redis -- redis-server": {Image: workload.Image{Repository: "docker.io/library/redis"}, Args: []string{"/usr/bin/redis-server", "--requirepass", "hunter2"}},
		"sh":                    {Args: []string{"sh", "-c", "TOKEN=x run"}, Executable: workload.Executable{Path: "/bin/dash"}},
		"unknown":               {},
		"r.io/x":                {Image: workload.Image{Repository: "r.io/x"}},
	} {
		if got := called(f); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
