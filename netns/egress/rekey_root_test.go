package egress

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// expire ends the sessions of a gateway's peers, whose next packet needs a handshake, as it does every two minutes.
func (g *gateway) expire(t testing.TB) {
	t.Helper()
	text, err := g.device.IpcGet()
	if err != nil {
		t.Error(err) // another goroutine asks
	}
	for line := range strings.Lines(text) {
		hex, ok := strings.CutPrefix(strings.TrimSpace(line), "public_key=")
		if !ok {
			continue
		}
		var key device.NoisePublicKey
		if err := key.FromHex(hex); err != nil {
			t.Error(err)
		}
		if peer := g.device.LookupPeer(key); peer != nil {
			peer.ExpireCurrentKeypairs()
		}
	}
}

// handshake tells when the last one of each peer was.
func (g *gateway) handshake(t testing.TB) (when string) {
	t.Helper()
	text, err := g.device.IpcGet()
	if err != nil {
		t.Error(err) // another goroutine asks
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "last_handshake_time_") {
			when += line
		}
	}
	return when
}

// rekey ends the sessions whenever one is there that has carried something, until stop; it returns how often there was a new one.
func (g *gateway) rekey(t testing.TB, stop <-chan struct{}) (sessions int) {
	const carries = 1 << 20
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last string
	var from int64
	for {
		select {
		case <-stop:
			return sessions
		case <-tick.C:
		}
		when, received := g.handshake(t), g.received(t)
		switch {
		case when != last:
			last, from = when, received
			sessions++
		case received-from >= carries:
			g.expire(t)
			from = received // once for each session, unless it goes on
		}
	}
}

// TestRootRekey makes new session keys over and over while a hundred connections send and receive: none is dropped, and no byte is wrong. Where
// the machine is emulated (FOREFEND_EGRESS_WAIT) there are twenty.
func TestRootRekey(t *testing.T) {
	flows, size := "flows=100", "n=100000"
	if os.Getenv("FOREFEND_EGRESS_WAIT") != "" {
		flows, size = "flows=20", "n=60000"
	}
	w := newWorld(t, false)
	g, way := w.attach(t, "gateway", 1420)
	stop, sessions := make(chan struct{}), make(chan int)
	go func() { sessions <- g.rekey(t, stop) }()
	for _, server := range []string{server4, server6} {
		w.agent.wants(t, g.name, "bulks", at(server, port), mark(way.Mark), size, flows)
	}
	close(stop)
	if n := <-sessions; n < 3 {
		t.Errorf("%d sessions while it went on", n)
	} else {
		t.Logf("%d sessions", n)
	}
	if left := w.seen.of("tcp"); len(left) > 0 {
		t.Errorf("%d segments left by the uplink: %.200v", len(left), left)
	}
}
