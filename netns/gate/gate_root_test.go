package gate

import (
	"forefend.dev/forefend/test/network"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func at(addr string) string { return net.JoinHostPort(addr, port) }

// seen keeps events.
type seen struct {
	mu     sync.Mutex
	events []Event
}

func (s *seen) add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// await waits for an event of a kind about a destination.
func (s *seen) await(t *testing.T, k Kind, destination string) {
	t.Helper()
	for end := time.Now().Add(15 * wait); ; time.Sleep(5 * time.Millisecond) {
		if s.count(k, destination) > 0 {
			return
		}
		if time.Now().After(end) {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Errorf("no event %q about %s; there are %v", k, destination, s.events)
			return
		}
	}
}

func (s *seen) count(k Kind, destination string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Kind == k && strings.HasPrefix(e.Destination(), destination) {
			n++
		}
	}
	return n
}

func open(t *testing.T, w *world, cgroup string) (*Gate, *seen) {
	t.Helper()
	var s seen
	g, err := w.gates.Open(cgroup, 0, s.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, &s
}

func set(t *testing.T, g *Gate, r Rules) {
	t.Helper()
	if err := g.Set(r); err != nil {
		t.Fatal(err)
	}
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestRootOff(t *testing.T) {
	w := newWorld(t)
	g, s := open(t, w, w.cgroup)
	p, other := w.start(t, w.cgroup), w.start(t, newCgroup(t, "other"))
	p.must(t, "listen", "0.0.0.0:8888")
	p.must(t, "dial", "four", at(outside4))
	p.must(t, "dial", "six", at(outside6))
	p.must(t, "dial", "self", inside4+":8888")
	other.must(t, "dial", "four", at(outside4))
	p.must(t, "udp", at(outside4))
	p.must(t, "udp", at(outside6))
	p.must(t, "raw", outside4)

	set(t, g, Rules{Off: true})
	for _, try := range [][]string{
		{"echo", "four"}, {"echo", "six"}, {"dial", "new", at(outside4)}, {"dial", "new", at(outside6)}, {"udp", at(outside4)}, {"udp", at(outside6)}, {"raw", outside4},
	} {
		p.mustFail(t, try...)
	}
	p.must(t, "echo", "self") // loopback, by an address that is not its own
	p.must(t, "dial", "self2", "127.0.0.1:8888")
	p.must(t, "udp", "127.0.0.1:8888")
	other.must(t, "echo", "four") // of the same network namespace, in another cgroup
	other.must(t, "udp", at(outside6))
	s.await(t, RefusedOff, "tcp/"+at(outside4))
	s.await(t, RefusedOff, "tcp/"+at(outside6))
	s.await(t, RefusedOff, "udp/"+at(outside4))
	s.await(t, RefusedOff, "icmp/"+outside4)

	set(t, g, Rules{})
	p.must(t, "eventually", "four") // what was cut goes on by itself, and soon
	p.must(t, "eventually", "six")
	p.must(t, "dial", "again", at(outside4))
	p.must(t, "udp", at(outside6))
	p.must(t, "raw", outside4)
}

// TestRootOffInward: nor does anybody from outside reach a container whose network is off.
func TestRootOffInward(t *testing.T) {
	w := newWorld(t)
	g, s := open(t, w, w.cgroup)
	p := w.start(t, w.cgroup)
	p.must(t, "listen", ":8888")
	reach := func() error {
		var err error
		network.In(t, w.outside, func() error {
			var c net.Conn
			if c, err = net.DialTimeout("tcp", inside4+":8888", wait/4); err == nil {
				err = echoed(c, wait/4)
			}
			return nil
		})
		return err
	}
	if err := reach(); err != nil {
		t.Fatal(err)
	}
	s.await(t, Accepted, "tcp/"+outside4)
	set(t, g, Rules{Off: true})
	if reach() == nil {
		t.Error("a container whose network is off was reached")
	}
	set(t, g, Rules{})
	for range 3 {
		if err := reach(); err != nil {
			t.Error(err)
		}
	}
	if n := s.count(Accepted, "tcp/"); n != 1 {
		t.Errorf("the first accepted connection was reported %d times", n)
	}
}

// TestRootHandshakeGivesUpSoon: a connection that cannot be made fails in seconds.
func TestRootHandshakeGivesUpSoon(t *testing.T) {
	w := newWorld(t)
	g, _ := open(t, w, w.cgroup)
	p := w.start(t, w.cgroup)
	set(t, g, Rules{Off: true})
	start := time.Now()
	p.mustFail(t, "patient", at(outside4))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the kernel gave up after %s", took)
	}
}

func TestRootSets(t *testing.T) {
	w := newWorld(t)
	g, s := open(t, w, w.cgroup)
	p := w.start(t, w.cgroup)
	p.must(t, "dial", "blocked", at("192.0.2.1"))

	set(t, g, Rules{Block: prefixes("192.0.2.0/24", "2001:db8::/48"), Allow: prefixes("192.0.2.9/32")})
	p.mustFail(t, "echo", "blocked") // established, too
	p.mustFail(t, "dial", "x", at("192.0.2.1"))
	p.mustFail(t, "dial", "x", at("192.0.2.9")) // what is blocked has no exceptions
	p.mustFail(t, "udp", at("2001:db8::1"))
	p.must(t, "dial", "open", at("198.51.100.1"))
	p.must(t, "udp", at("2001:db8:9::1"))
	s.await(t, RefusedSet, "tcp/"+at("192.0.2.1"))
	s.await(t, RefusedSet, "udp/"+at("2001:db8::1"))

	set(t, g, Rules{Closed: true, Allow: prefixes("192.0.2.0/24", "2001:db8:9::/48")})
	p.must(t, "eventually", "blocked")
	p.must(t, "dial", "y", at("192.0.2.9"))
	p.must(t, "udp", at("2001:db8:9::1"))
	p.mustFail(t, "echo", "open")
	p.mustFail(t, "dial", "x", at("198.51.100.1"))
	p.mustFail(t, "udp", at("2001:db8::1"))
	s.await(t, RefusedClosed, "tcp/"+at("198.51.100.1"))

	set(t, g, Rules{})
	p.must(t, "eventually", "open")
	p.must(t, "udp", at("2001:db8::1"))
}

// TestRootAnswers: a container that may begin nothing still serves.
func TestRootAnswers(t *testing.T) {
	w := newWorld(t)
	g, _ := open(t, w, w.cgroup)
	p := w.start(t, w.cgroup)
	p.must(t, "listen", ":8888")
	set(t, g, Rules{Closed: true})
	network.In(t, w.outside, func() error {
		for _, a := range []string{inside4, inside6} {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(a, "8888"), wait)
			if err == nil {
				err = echoed(c, wait)
			}
			if err != nil {
				t.Errorf("served by TCP at %s: %v", a, err)
			}
			if c, err = net.Dial("udp", net.JoinHostPort(a, "8888")); err == nil {
				err = echoed(c, wait)
			}
			if err != nil {
				t.Errorf("served by UDP at %s: %v", a, err)
			}
		}
		return nil
	})
	p.mustFail(t, "dial", "x", at(outside4))
	p.mustFail(t, "udp", at(outside4))
	p.mustFail(t, "udp", at(outside6))
}

func TestRootFeeds(t *testing.T) {
	w := newWorld(t)
	g, s := open(t, w, w.cgroup)
	p := w.start(t, w.cgroup)
	feeds := w.gates.Feeds()
	if feeds.InForce() {
		t.Error("feeds are in force before they are loaded")
	}
	set(t, g, Rules{Feeds: FeedsBlock})
	p.must(t, "dial", "a", at("192.0.2.1"))
	if n, err := feeds.Load(slices.Values(prefixes("192.0.2.0/24", "2001:db8::/48"))); err != nil || n != 2 {
		t.Fatal(err)
	}
	if !feeds.InForce() {
		t.Error("feeds are not in force")
	}
	p.mustFail(t, "echo", "a")
	p.mustFail(t, "udp", at("2001:db8::1"))
	p.must(t, "udp", at("2001:db8:9::1"))
	s.await(t, RefusedFeed, "tcp/"+at("192.0.2.1"))

	set(t, g, Rules{Feeds: FeedsBlock, Allow: prefixes("192.0.2.9/32")}) // a false alarm
	p.must(t, "dial", "b", at("192.0.2.9"))

	set(t, g, Rules{Feeds: FeedsWatch})
	p.must(t, "eventually", "a")
	p.must(t, "dial", "c", at("192.0.2.9"))
	s.await(t, SeenFeed, "tcp/"+at("192.0.2.9"))

	set(t, g, Rules{Feeds: FeedsBlock})
	if err := feeds.Change(prefixes("198.51.100.0/24"), prefixes("192.0.2.0/24")); err != nil {
		t.Fatal(err)
	}
	p.must(t, "eventually", "a")
	p.mustFail(t, "dial", "x", at("198.51.100.1"))
	if _, err := feeds.Load(slices.Values[[]netip.Prefix](nil)); err != nil {
		t.Fatal(err)
	}
	p.must(t, "dial", "d", at("198.51.100.1"))
}

// TestRootFrames: packet sockets, which no program of a cgroup sees, send nothing either while a rule restricts their container, in a group
// below its own too; those of others in the same network namespace do.
func TestRootFrames(t *testing.T) {
	w := newWorld(t)
	other := w.start(t, newCgroup(t, "other"))
	g, err := w.gates.Open(w.cgroup, other.PID, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	below := filepath.Join(w.cgroup, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(below) })
	p, q := w.start(t, w.cgroup), w.start(t, below)
	for _, r := range []Rules{{Off: true}, {Closed: true}, {Block: prefixes("192.0.2.0/24")}} {
		p.must(t, "packet", outside4)
		q.must(t, "packet", outside4)
		set(t, g, r)
		if err := g.Frames(); err != nil {
			t.Fatal(err)
		}
		p.mustFail(t, "packet", outside4)
		q.mustFail(t, "packet", outside4)
		other.must(t, "packet", outside4)
		set(t, g, Rules{})
	}
	p.must(t, "packet", outside4)
}
