package egress

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/openvpn"
	"forefend.dev/forefend/test/network"
	far "forefend.dev/forefend/test/openvpn"
)

// connectVPN makes an OpenVPN gateway with a world of its own behind it, and has one client, or more, let in.
func connectVPN(t testing.TB, name string, n int) (*far.Server, []*openvpn.Process) {
	t.Helper()
	behind := network.Of(t)
	a := far.NewAuthority(t, "authority")
	id := a.Issue(t, "gateway", true)
	s := far.Serve(t, behind, a, id, nil, []string{server4}, "duplicate-cn")
	serve(t, behind, name)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []*openvpn.Process
	for i := range n {
		slot := a.Issue(t, fmt.Sprint("slot-", i), false)
		p, err := openvpn.Start(ctx, openvpn.Config{
			CA: a.PEM, Cert: slot.Cert, Key: slot.Key, Fingerprints: []string{id.Fingerprint}, Endpoint: s.At,
			Allowed: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}, MTU: 1420, DeadAfter: patience,
		}, func(int) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = p.Close()
			<-p.Ended()
		})
		all = append(all, p)
	}
	return s, all
}

// TestRootOpenVPN: what a mark leads to an OpenVPN device comes out at its gateway, byte for byte, and nothing of it by the uplink;
// with its process gone it comes out nowhere.
func TestRootOpenVPN(t *testing.T) {
	w := newWorld(t, true)
	server, processes := connectVPN(t, "openvpn", 1)
	way, err := w.space.Attach(processes[0].Plan())
	if err != nil {
		t.Fatal(err)
	}
	home, err := enter.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	outer := watch(t, home, "lo")
	const size = 4 << 20
	w.agent.wants(t, "openvpn", "bulk", at(server4, port), mark(way.Mark), fmt.Sprint("n=", size))
	before := passed(outer, server.At.String())
	w.agent.wants(t, "openvpn", "tcp", at(server4, port), mark(way.Mark), "tos=184") // as the interceptor marks what is realtime
	if before != 0 || passed(outer, server.At.String()) == 0 {
		t.Errorf("code points of the packets to the gateway: %d before, %d after", before, passed(outer, server.At.String()))
	}
	w.workload.wants(t, "interceptor", "tcp", at(server4, port))
	w.workload.fails(t, "tcp", at(server4, port), mark(way.Mark))
	w.workload.fails(t, "tcp", at(server4, port), "dev="+way.Device)
	if n := len(outer.of("udp " + server.At.String())); n < 100 { // a capture under load misses some
		t.Errorf("%d packets reached the gateway's port, of %d bytes", n, size)
	}
	if leaked := outer.of("tcp "+at(server4, port), "udp "+at(server4, port)); len(leaked) > 0 {
		t.Errorf("in the node's network: %q", leaked)
	}
	w.none(t, "tcp")

	if err := processes[0].Close(); err != nil {
		t.Fatal(err)
	}
	w.agent.fails(t, "tcp", at(server4, port), mark(way.Mark), "soon")
	w.none(t, "tcp")
}

// BenchmarkRootOpenVPN moves bulk by the whole path (rules, marks, tables, pass) and by the same openvpn without any of it, in turns,
// and reports the ratio of the medians.
func BenchmarkRootOpenVPN(b *testing.B) {
	const size = 32 << 20
	w := newWorld(b, true)
	_, processes := connectVPN(b, "openvpn", 2)
	way, err := w.space.Attach(processes[0].Plan())
	if err != nil {
		b.Fatal(err)
	}
	raw := &world{inside: network.Of(b)}
	plan := processes[1].Plan()
	if _, err := plan.Make(raw.inside, "raw0", 0); err != nil {
		b.Fatal(err)
	}
	network.In(b, raw.inside, func() error { return plug("raw0", plan.Addresses[0].String(), plan.MTU) })
	alternate(b, w, way, raw, "openvpn", size)
}
