package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/e2e/harness"
)

// TestNetwork switches networks of running containers.
func TestNetwork(t *testing.T) {
	feeds := t.TempDir()
	if err := os.WriteFile(filepath.Join(feeds, "bad.txt"), []byte("203.0.113.0/24\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A contact with a listed address is a risk, for which a workload loses its network: only tests of feeds have any.
	listing := newHost(t, harness.WithConfig(fmt.Sprintf("mode = \"observe\"\n[threats]\nfeeds = [%q]\n", feeds)))
	t.Run("feeds", func(t *testing.T) { feedsAreWatchedAndBlock(t, listing) })
	h := newHost(t)
	t.Run("kills", func(t *testing.T) { gateOutlivesItsMakers(t, h) })
	t.Run("egress", func(t *testing.T) { egressIsSet(t, h) })
	t.Run("pod", func(t *testing.T) { otherContainersKeepTheirs(t, h) })
	t.Run("off and on", func(t *testing.T) { networkOffAndOn(t, h) })
	t.Run("off from the start", func(t *testing.T) { networkOffFromTheStart(t, h) })
	t.Run("host network", func(t *testing.T) { hostNetworkStays(t, h) })
}

// adapter is a connection to the shim of a container.
func (h *host) adapter(t testing.TB, id string) *api.AdapterClient {
	t.Helper()
	var socket string
	err := filepath.WalkDir(h.Dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "/"+id+"/bootstrap.json") {
			return nil //nolint:nilerr // what vanishes meanwhile is another container's
		}
		var b struct{ Address string }
		body, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(body, &b)
		}
		socket = b.Address
		return err
	})
	if err != nil || socket == "" {
		t.Fatalf("no address of the shim of %s: %v", id, err)
	}
	a, err := api.DialAdapter(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// decision is what is in force for a container.
func (h *host) decision(t testing.TB, id string) (workload.ID, api.Decision) {
	t.Helper()
	wid := workload.ID{Namespace: h.Namespace, Container: id}
	r, err := record.Dir(h.state("c")).Read(wid)
	if err != nil || r.Decision == nil {
		t.Fatalf("record of %s: %v", id, err)
	}
	return wid, *r.Decision
}

// adapt puts other values of some keys in force, as an operator would, and returns what became of it and how long it took.
func (h *host) adapt(t testing.TB, a *api.AdapterClient, id string, keys map[policy.Key]policy.Value) (api.Result, time.Duration) {
	t.Helper()
	wid, d := h.decision(t, id)
	after := d
	after.Revision++
	claims := []policy.Claim{}
	for k, v := range keys {
		claims = append(claims, policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Operator, Source: "test"}})
	}
	after.Effective = d.Effective.ReplaceKeys(func(k policy.Key) bool { return k.Dimension() == policy.Network || k.Dimension() == policy.Egress },
		policy.Merge(policy.Input{Claims: claims}))
	start := time.Now()
	r, err := a.Adapt(t.Context(), api.AdaptRequest{ID: wid, Run: d.Facts.Run, Before: d.Revision, After: after})
	took := time.Since(start)
	if err != nil || r.Stale {
		t.Fatalf("adapt %s: %v, %+v", id, err, r)
	}
	for _, result := range r.Results {
		if result.Lever == "network" {
			return result, took
		}
	}
	return api.Result{}, took
}

// worldly starts a container with a link to the world.
func (h *host) worldly(t *testing.T, o *outside, c container) (id, address string) {
	t.Helper()
	id = h.start(t, c)
	pid := h.row(t, id).PID
	return id, o.link(t, pid)
}

// reach has a container send something to an address of the world and wait a second for the echo.
func (h *host) reach(id, addr string) bool { return h.reachIn(id, addr, 1) }

func (h *host) reachIn(id, addr string, seconds int) bool {
	r := h.exec(id, "sh", "-c", fmt.Sprintf("(echo hello; sleep 0.3) | timeout %d nc -w %d %s %s", seconds, seconds, addr, worldPort))
	return strings.Contains(r.Stdout, "hello")
}

// reached is reach for what should be: on a busy machine a second can pass without anything.
func (h *host) reached(id, addr string) bool { return h.reach(id, addr) || h.reachIn(id, addr, 10) }

func networkOffAndOn(t *testing.T, h *host) {
	o := newOutside(t)
	id, _ := h.worldly(t, o, sh("sleep 1000"))
	a := h.adapter(t, id)
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		if !h.reached(id, addr) {
			t.Fatalf("%s is not reached to begin with", addr)
		}
	}
	if r, took := h.adapt(t, a, id, map[policy.Key]policy.Value{policy.KeyNetwork: policy.Tight}); r.Status != api.ResultApplied {
		t.Fatalf("%+v", r)
	} else {
		t.Log("off took", took, r.Took)
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		if h.reach(id, addr) {
			t.Errorf("%s is reached with the network off", addr)
		}
	}
	eventually(t, "event denied", func() bool {
		for _, e := range h.events(t, id) {
			if e.Kind == "denied" && strings.Contains(e.Message, "contact with tcp/192.0.2.1:"+worldPort+" refused: network = off") {
				return true
			}
		}
		return false
	})
	if r, _ := h.adapt(t, a, id, map[policy.Key]policy.Value{policy.KeyNetwork: policy.Loose}); r.Status != api.ResultApplied {
		t.Fatalf("%+v", r)
	}
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		if !h.reached(id, addr) {
			t.Errorf("%s is not reached with the network on again", addr)
		}
	}
}

func networkOffFromTheStart(t *testing.T, h *host) {
	o := newOutside(t)
	id, _ := h.worldly(t, o, sh("sleep 1000", "--annotation", "forefend.dev/network=off"))
	h.explain(t, id).want(t, "network", "off", "request")
	if h.reach(id, "192.0.2.1") {
		t.Error("reached with the network off")
	}
	a := h.adapter(t, id)
	if r, _ := h.adapt(t, a, id, map[policy.Key]policy.Value{policy.KeyNetwork: policy.Loose}); r.Status != api.ResultApplied {
		t.Fatalf("%+v", r)
	}
	if !h.reached(id, "192.0.2.1") {
		t.Error("not reached with the network on")
	}
}

// want checks that exactly some of the world's addresses are reached.
func (h *host) wantReached(t *testing.T, id string, reached ...string) {
	t.Helper()
	var all sync.WaitGroup
	defer all.Wait()
	for _, a := range harness.WorldAddresses {
		all.Go(func() {
			switch should := slices.Contains(reached, a); {
			case should && !h.reached(id, a):
				t.Errorf("%s is not reached, %v should be", a, reached)
			case !should && h.reach(id, a):
				t.Errorf("%s is reached, only %v should be", a, reached)
			}
		})
	}
}

func egressIsSet(t *testing.T, h *host) {
	o := newOutside(t)
	id, _ := h.worldly(t, o, sh("sleep 1000", "--annotation", "forefend.dev/egress.default=closed", "--annotation", "forefend.dev/egress.allow=192.0.2.0/24,2001:db8::/48"))
	h.wantReached(t, id, "192.0.2.1", "2001:db8::1")
	h.adjust(t, "set", id, "egress.default=open", "egress.block=192.0.2.1,2001:db8:9::/48")
	h.wantReached(t, id, "198.51.100.1", "203.0.113.1", "2001:db8::1")
	d := h.explain(t, id)
	d.want(t, "egress.default", "open", "operator")
	eventually(t, "event denied", func() bool {
		return slices.ContainsFunc(h.events(t, id), func(e event) bool {
			return e.Kind == "denied" && strings.Contains(e.Message, "contact with tcp/192.0.2.1:"+worldPort+" refused: blocked by egress/192.0.2.1 = blocked by operator")
		})
	})
	h.adjust(t, "reset", id)
	h.wantReached(t, id, "192.0.2.1", "2001:db8::1")
	h.adjust(t, "set", id, "network=off")
	h.wantReached(t, id)
	h.adjust(t, "unset", id, "network")
	h.wantReached(t, id, "192.0.2.1", "2001:db8::1")
}

func feedsAreWatchedAndBlock(t *testing.T, h *host) {
	o := newOutside(t)
	id, _ := h.worldly(t, o, sh("sleep 1000"))
	eventually(t, "feeds in the kernel", func() bool { return strings.Contains(h.Forefend("threat", "list").Stdout, "\nin force in the kernel") })
	h.wantReached(t, id, harness.WorldAddresses...) // by default they are watched
	eventually(t, "event threat", func() bool {
		return slices.ContainsFunc(h.events(t, id), func(e event) bool {
			return e.Kind == "threat" && strings.Contains(e.Message, "contact with tcp/203.0.113.1:"+worldPort)
		})
	})
	h.adjust(t, "set", id, "egress.feeds=block")
	h.wantReached(t, id, "192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8:9::1")
	h.adjust(t, "set", id, "egress.allow=203.0.113.1") // a false alarm
	h.wantReached(t, id, harness.WorldAddresses...)
}

// otherContainersKeepTheirs: of two containers in one network namespace, one loses its network.
func otherContainersKeepTheirs(t *testing.T, h *host) {
	o := newOutside(t)
	first, _ := h.worldly(t, o, sh("sleep 1000"))
	second := h.start(t, sh("sleep 1000", "--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", h.row(t, first).PID)))
	h.adjust(t, "set", first, "network=off")
	h.wantReached(t, first)
	h.wantReached(t, second, harness.WorldAddresses...)
	h.adjust(t, "set", second, "network=off")
	h.adjust(t, "set", first, "network=on")
	h.wantReached(t, first, harness.WorldAddresses...)
	h.wantReached(t, second)
}

// gateOutlivesItsMakers: what is set holds without a daemon, a new daemon takes it up, and a shim that is killed leaves nothing.
func gateOutlivesItsMakers(t *testing.T, h *host) {
	o := newOutside(t)
	id, _ := h.worldly(t, o, sh("sleep 1000"))
	h.adjust(t, "set", id, "egress.block=192.0.2.0/24")
	h.killDaemons(t)
	h.wantReached(t, id, "198.51.100.1", "203.0.113.1", "2001:db8::1", "2001:db8:9::1")
	h.mustRun(t, sh("true")) // which starts a daemon
	h.adjust(t, "reset", id)
	h.adjust(t, "set", id, "egress.block=2001:db8::/48")
	h.wantReached(t, id, "192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8:9::1")
	h.killShim(t, id)
	eventually(t, "no trace", func() bool { return h.traceless(t, id) })
}

func hostNetworkStays(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--net-host"))
	a := h.adapter(t, id)
	r, _ := h.adapt(t, a, id, map[policy.Key]policy.Value{policy.KeyNetwork: policy.Tight})
	if r.Status != api.ResultRefused || !strings.Contains(r.Reason, "uses the host's") {
		t.Errorf("%+v", r)
	}
	if _, d := h.decision(t, id); d.Effective.Value(policy.KeyNetwork, policy.Loose) != policy.Loose {
		t.Error("the policy in force says off")
	}
}
