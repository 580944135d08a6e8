package main

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
)

// Garbage is collected when nobody has waited for a while, and there is enough of it.
func TestCollectorWaitsForAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		method       string
		takes, again time.Duration // of an answer; from its end to the next question, 0: there is none
		worth        bool
		want         []time.Duration // since the first question
	}{
		"after an answer":        {method: "Admit", takes: time.Second, worth: true, want: []time.Duration{time.Second + collectPause}},
		"not for little":         {method: "Admit", takes: time.Second},
		"not between questions":  {method: "Adjust", takes: time.Second, again: collectPause / 2, worth: true, want: []time.Duration{2*time.Second + collectPause/2 + collectPause}},
		"again after a pause":    {method: "Update", takes: time.Second, again: 2 * collectPause, worth: true, want: []time.Duration{time.Second + collectPause, 2*time.Second + 3*collectPause}},
		"nobody waits for these": {method: "Events", takes: time.Hour, worth: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var got []time.Duration
				c := collectorOf(func() bool { return test.worth }, func() { got = append(got, time.Since(began)) })
				ask := func() {
					_, err := c.intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: ttrpcName(test.method)}, func(context.Context, func(any) error) (any, error) {
						time.Sleep(test.takes)
						return nil, nil
					})
					if err != nil {
						t.Error(err)
					}
				}
				ask()
				if test.again > 0 {
					time.Sleep(test.again)
					ask()
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(got) != len(test.want) {
					t.Fatalf("collected at %v, not %v", got, test.want)
				}
				for i := range got {
					if got[i] != test.want[i] {
						t.Errorf("collected at %v, not %v", got, test.want)
					}
				}
			})
		})
	}
}

// The runtime does what worthCollecting expects of it: after a collection little is worth one, and garbage makes it so before the runtime
// collects by itself.
func TestWorthCollecting(t *testing.T) {
	cycles := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}}
	count := func() uint64 {
		metrics.Read(cycles)
		return cycles[0].Value.Uint64()
	}
	for range 20 { // another test's goroutine may bring about a collection of its own
		runtime.GC()
		before := count()
		if worthCollecting() {
			continue
		}
		for count() == before {
			if worthCollecting() {
				return
			}
			garbage = make([]byte, 32<<10)
		}
	}
	t.Error("never found worth it between two collections")
}

var garbage []byte
