package egress

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
)

// shaped makes a gateway, and a tunnel to it for a class, that may send so many bytes a second.
func (w *world) shaped(t testing.TB, g *gateway, class string, rate int64) *Way {
	t.Helper()
	c, addresses := g.slot(t, 1420)
	c.DSCP = flow.DSCP(class)
	plan := c.Plan(addresses)
	plan.Rate = rate
	way, err := w.space.Attach(plan)
	if err != nil {
		t.Fatal(err)
	}
	return way
}

// another is another process where the interceptor is.
func (w *world) another(t testing.TB) *process { t.Helper(); return w.start(t, w.group.dir) }

// TestRootClasses: packets to the gateway have their class's code point, and no other has; a class's queue is its own.
func TestRootClasses(t *testing.T) {
	w := newWorld(t, true)
	home, err := enter.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	outer := watch(t, home, "lo")
	const rate = 20_000_000 / 8
	for _, class := range flow.QoSClasses {
		g := newGateway(t, class, 1420)
		way := w.shaped(t, g, class, 0)
		w.agent.wants(t, class, "tcp", at(server4, port), mark(way.Mark))
		want := "udp " + g.at.String()
		if dscp := flow.DSCP(class); dscp != 0 {
			want += fmt.Sprint(" dscp ", dscp)
		}
		sent := outer.of("udp " + g.at.String())
		if len(sent) == 0 {
			t.Errorf("%s: nothing was sent", class)
		}
		for _, p := range sent {
			if p != want {
				t.Errorf("%s: a packet is %q, want %q", class, p, want)
			}
		}
	}

	g := newGateway(t, "gateway", 1420)
	bulk, fast := w.shaped(t, g, flow.QoSBulk, rate), w.shaped(t, g, flow.QoSInteractive, rate)
	ask := func(way *Way) time.Duration {
		text, err := w.agent.Ask(t, "echo", at(server4, port), mark(way.Mark), "n=60", "flows")
		n, bad := strconv.Atoi(text)
		if err != nil || bad != nil {
			t.Fatal(text, err)
		}
		return time.Duration(n) * time.Microsecond
	}
	idle := ask(fast)
	flooding := make(chan error, 1)
	other := w.another(t)
	go func() {
		_, err := other.Ask(t, "flood", at(server4, port), mark(bulk.Mark), "n=10", "for=8s", "flows")
		flooding <- err
	}()
	time.Sleep(time.Second) // until the queue is full
	beside, within := ask(fast), ask(bulk)
	if err := <-flooding; err != nil {
		t.Fatal(err)
	}
	t.Logf("median until a byte comes back: idle %s, beside a flood of another class %s, within it %s", idle, beside, within)
	if beside > 25*time.Millisecond {
		t.Errorf("beside a flood of bulk an interactive byte takes %s", beside)
	}
}

// measure floods a way to a gateway by connections, and returns how far what came out of it was off its rate, in percent, over a time. What
// counts are IP packets as they are on their way: the device itself counts what TCP hands over as one, with one head for many packets.
func (w *world) measure(t testing.TB, g *gateway, way *Way, rate int64, connections int, over time.Duration) float64 {
	t.Helper()
	const settle = 2 * time.Second
	const ofPackets = 1420.0 / (1420 + 32) // of what the gateway counts, whose packets are full: WireGuard's head and tag are not the packet's
	flooding := make(chan error, 1)
	other := w.another(t)
	go func() {
		_, err := other.Ask(t, "flood", at(server4, port), mark(way.Mark), fmt.Sprint("n=", connections), fmt.Sprint("for=", over+2*settle))
		flooding <- err
	}()
	time.Sleep(settle)
	before, begun := g.received(t), time.Now()
	time.Sleep(over)
	after, took := g.received(t), time.Since(begun)
	if err := <-flooding; err != nil {
		t.Fatal(err)
	}
	return 100 * (float64(after-before)*ofPackets/took.Seconds()/float64(rate) - 1)
}

// TestRootRate: a device sends what it may, neither more nor less.
func TestRootRate(t *testing.T) {
	w := newWorld(t, true)
	const rate = 10_000_000 / 8
	g := newGateway(t, "gateway", 1420)
	way := w.shaped(t, g, "", rate)
	for end := time.Now().Add(time.Minute); ; { // a busy machine may not send as much, and has another try; more it never may
		off := w.measure(t, g, way, rate, 10, 3*time.Second)
		if off < -5 && time.Now().Before(end) {
			t.Logf("%+.1f %% off the rate, once more", off)
			continue
		}
		if off > 5 || off < -5 {
			t.Errorf("10 connections: %+.1f %% off the rate", off)
		}
		return
	}
}

// BenchmarkRootRate reports how far off its rate a device is, over 10 s, by 1, 10 and 100 connections.
func BenchmarkRootRate(b *testing.B) {
	w := newWorld(b, true)
	for _, rate := range []int64{1_000_000, 10_000_000, 100_000_000} {
		for _, n := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("%dmbit/%d", rate/1_000_000, n), func(b *testing.B) {
				g := newGateway(b, "gateway", 1420)
				way := w.shaped(b, g, "", rate/8)
				var worst float64
				for b.Loop() {
					if off := w.measure(b, g, way, rate/8, n, 10*time.Second); off*off > worst*worst {
						worst = off
					}
				}
				b.ReportMetric(worst, "worst-%")
			})
		}
	}
}

// passed are the code points of packets to an address.
func passed(c *capture, to string) (n int) {
	for _, p := range c.of("udp " + to) {
		if strings.HasSuffix(p, " dscp 46") {
			n++
		}
	}
	return n
}
