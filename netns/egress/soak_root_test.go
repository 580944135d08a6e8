package egress

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/test/root"
)

// soakVariable is how many random injections TestRootSoak makes; by default a minute's worth.
const soakVariable = "FOREFEND_SOAK_EGRESS"

// TestRootSoak breaks and forges at random, in namespaces that it makes anew after a few dozen times, and has the container's uplink
// watched: nothing may leave that policy forbids.
func TestRootSoak(t *testing.T) {
	root.Test(t) // not in the worlds alone: without root they would be skipped one after the other until the time is over
	most, short := 1<<30, true
	if text := os.Getenv(soakVariable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		most, short = n, false
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	done, worlds := 0, 0
	for end := time.Now().Add(45 * time.Second); done < most && (!short || time.Now().Before(end)) && !t.Failed(); worlds++ {
		t.Run(fmt.Sprint("world ", worlds), func(t *testing.T) { done += soak(t, random, min(40, most-done)) })
	}
	t.Logf("%d injections in %d namespaces, seed %d: nothing forbidden left by the uplink: %t", done, worlds, seed, !t.Failed())
}

// soak makes n injections in one namespace.
func soak(t *testing.T, random *rand.Rand, n int) (done int) {
	w := newWorld(t, true)
	g, way := w.attach(t, "gateway", 1420)
	broken := make(map[string]bool)
	for ; done < n; done++ {
		if random.IntN(12) == 0 && len(broken) < 3 {
			b := breakages[random.IntN(len(breakages))]
			switch {
			case broken[b.name], b.name != "netfilter flushed" && b.name != "interceptor gone" && len(broken) > 0: // what is broken cannot be broken again
				continue
			case b.name == "netfilter flushed" && broken["rule leads to main"]: // each lock is closed by itself, but these are both
				continue
			}
			broken[b.name] = true
			b.breakIt(t, w, g, way)
			continue
		}
		w.inject(t, random, way, broken["netfilter flushed"])
	}
	w.none(t, "tcp", "udp "+at(server4, "443"), "udp "+at(server6, "443"))
	if t.Failed() {
		t.Logf("broken: %v", broken)
	}
	return done
}

// inject has the workload, or who took the interceptor over, try one thing. Without netfilter's rules, which takes CAP_NET_ADMIN, only the
// routes hold: what has a forged mark or is bound to a device is stopped by the rules alone (docs/decisions/0069).
func (w *world) inject(t *testing.T, random *rand.Rand, way *Way, flushed bool) {
	to := []string{at(server4, port), at(server6, port), at("169.254.169.254", "80"), at(outside4, port)}[random.IntN(4)]
	two := []string{server4, server6}[random.IntN(2)]
	m := mark([]uint32{way.Mark, marks.Direct, marks.Inbound, 7, random.Uint32()}[random.IntN(5)])
	device := []string{"in0", way.Device}[random.IntN(2)]
	kinds := 4
	if !flushed {
		kinds = 12
	}
	switch random.IntN(kinds) {
	case 0: // by the interceptor, or not at all
		if got, err := w.workload.Ask(t, "tcp", to, "soon"); err == nil && got != "interceptor" {
			t.Errorf("the workload reached %s at %s", got, to)
		}
	case 1:
		w.workload.fails(t, "udp", at(two, "443"))
	case 2:
		if got, err := w.workload.Ask(t, "fast", at(server4, port)); err == nil && got != "interceptor" {
			t.Errorf("fast open reached %s", got)
		}
	case 3: // the tunnel, or nothing
		if w.agent == nil {
			return
		}
		if got, err := w.agent.Ask(t, "tcp", at(two, port), mark(way.Mark), "soon"); err == nil && got != "gateway" {
			t.Errorf("by the tunnel came %s", got)
		}
	case 4:
		w.workload.fails(t, "tcp", at(two, port), m)
	case 5:
		w.workload.fails(t, "tcp", at(two, port), "dev="+device)
	case 6:
		w.workload.fails(t, "tcp", at(two, port), "dev="+device, m)
	case 7:
		w.workload.fails(t, "udp", at(two, port), m)
	case 8:
		_, _ = w.workload.Ask(t, "syn", at(server4, port), m)
	case 9:
		_, _ = w.workload.Ask(t, "frame", device, m, []string{"queue", "bypass"}[random.IntN(2)])
	case 10:
		if w.agent != nil {
			w.agent.fails(t, "tcp", at(two, port), "dev=in0", mark(way.Mark))
		}
	case 11:
		w.workload.fails(t, "tcp", at([]string{"127.0.0.1", "::1", inside4, inside6}[random.IntN(4)], fmt.Sprint(interceptorPort)))
	}
}
