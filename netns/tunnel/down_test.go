package tunnel

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// downRig is a service in a bubble, whose namespaces each have somebody who hears of changes, and counts them.
type downRig struct {
	*Service
	t     *testing.T
	heard map[uint64]*atomic.Int64
}

// newDownRig has tunnels of these names, and those of namespaces that are in has.
func newDownRig(t *testing.T, tunnels []string, has map[uint64][]string) *downRig {
	t.Helper()
	var all []Tunnel
	for _, name := range tunnels {
		all = append(all, Tunnel{Name: name, Kind: WireGuard, Encryption: flow.Standard, Slots: make([]Slot, len(has))})
	}
	r := &downRig{t: t, heard: make(map[uint64]*atomic.Int64),
		Service: &Service{pool: NewPool(all), changes: newWayChanges(), drains: drains{file: t.TempDir() + "/drained.json"}, spaces: make(map[uint64]*space), now: time.Now}}
	for id, names := range has {
		r.spaces[id], r.heard[id] = &space{}, &atomic.Int64{}
		for _, name := range names {
			if _, _, err := r.pool.Lease(flow.Profile{Encryption: flow.Standard, Endpoint: name}, Holder{Namespace: id}); err != nil {
				t.Fatal(err)
			}
		}
		go func() {
			for after, begun := uint64(0), true; t.Context().Err() == nil; begun = false {
				got, err := r.WayChanges(t.Context(), api.WayChangesRequest{Namespace: id, After: after, Wait: time.Minute})
				if err != nil {
					t.Error(err)
				}
				if got.Last != after && !begun {
					r.heard[id].Add(1)
				}
				after = got.Last
			}
		}()
	}
	synctest.Wait()
	return r
}

// hears checks how many changes namespaces have heard of since it was asked the last time.
func (r *downRig) hears(what string, want map[uint64]int64) {
	r.t.Helper()
	r.tellDown(r.t.Context())
	synctest.Wait()
	got := make(map[uint64]int64)
	for id, n := range r.heard {
		if n := n.Swap(0); n > 0 {
			got[id] = n
		}
	}
	if !maps.Equal(got, want) {
		r.t.Errorf("%s: heard of %v changes, want %v", what, got, want)
	}
}

// TestDownTells: agents hear of a tunnel that was found down where they have it, once, and of nothing else.
func TestDownTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newDownRig(t, []string{"a", "b", "c"}, map[uint64][]string{1: {"a"}, 2: {"b"}, 3: {"a", "b"}})
		r.hears("nothing is down", nil)
		r.found("a", Up, "")
		r.hears("one is up", nil)
		r.found("a", Down, "silent")
		r.hears("one is down", map[uint64]int64{1: 1, 3: 1})
		r.found("a", Down, "still silent")
		time.Sleep(tellEach)
		r.hears("it still is", nil)
		r.found("c", Down, "silent")
		r.hears("one is down that nobody has", nil)
		r.found("b", Down, "silent")
		r.hears("another one is", map[uint64]int64{2: 1, 3: 1})
		time.Sleep(time.Second)
		r.found("a", Up, "")
		r.found("b", Up, "")
		r.hears("both are up", nil)
		time.Sleep(tellEach)
		r.found("a", Down, "silent")
		r.found("b", Down, "silent")
		r.hears("both are down at once", map[uint64]int64{1: 1, 2: 1, 3: 1})
		time.Sleep(tellEach)
		r.found("a", Up, "")
		r.found("a", Down, "silent")
		r.found("a", Up, "")
		r.hears("it was down for a moment", nil)
		time.Sleep(time.Second)
		r.found("a", Down, "silent")
		r.hears("and is again", map[uint64]int64{1: 1, 3: 1}) // which was not told before
		time.Sleep(retry + time.Second)
		r.tryAgain()
		r.hears("it is tried again", nil)
		r.found("a", Down, "silent")
		r.hears("and is down still", map[uint64]int64{1: 1, 3: 1})
	})
}

// TestDownStorm: whatever tunnels do, agents are told of each once in tellEach at most, and at most once in tellAny of all together; of one
// that stays down they are told.
func TestDownStorm(t *testing.T) {
	const lasts, every = 200 * time.Second, 100 * time.Millisecond
	for name, c := range map[string]struct {
		tunnels int
		up      func(i, n int) bool // the nth of them the ith time
		least   time.Duration       // between two changes
	}{
		"one":               {1, func(i, _ int) bool { return i%2 == 0 }, tellEach},
		"many, in turns":    {40, func(i, n int) bool { return i%200 == 5*n }, tellAny},
		"many, all at once": {40, func(i, _ int) bool { return i%2 == 0 }, tellEach},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var names []string
				for i := range c.tunnels {
					names = append(names, fmt.Sprint(i))
				}
				r := newDownRig(t, names, map[uint64][]string{1: names})
				tell := func(i int) {
					for n, name := range names {
						h := Down
						if i >= 0 && c.up(i, n) {
							h = Up
						}
						r.found(name, h, "")
					}
					r.tellDown(t.Context())
					synctest.Wait()
				}
				for i := range int(lasts / every) {
					tell(i)
					time.Sleep(every)
				}
				if n, most := r.heard[1].Swap(0), int64(lasts/c.least); n > most || n < most/2 {
					t.Errorf("in %s agents were told %d times, want %d at most, and not much less", lasts, n, most)
				}
				for range int(tellEach / every) {
					tell(-1)
					time.Sleep(every)
				}
				tell(-1)
				if len(r.downs.untold) > 0 || r.heard[1].Load() == 0 {
					t.Errorf("nobody was told of %v, which are down", r.downs.untold)
				}
			})
		})
	}
}
