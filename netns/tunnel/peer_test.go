package tunnel

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
)

// settable is a device that notes what it is set to.
type settable struct {
	wg.Rekeyed
	set []wg.Config
}

func (s *settable) Set(c wg.Config) error {
	s.set = append(s.set, c)
	return nil
}

// TestPeerMoves: a gateway that is elsewhere is looked up while others look at the peer, and again with its next answer where that failed.
func TestPeerMoves(t *testing.T) {
	server := func(endpoint string) provision.Server {
		return provision.Server{PublicKey: newPrivate().Public().Text(), Endpoints: []string{endpoint}, MTU: 1420}
	}
	old, next := server("192.0.2.1:1"), server("gw.test:1")
	next.PublicKey = old.PublicKey
	d := &settable{}
	p := &peer{id: "one", private: newPrivate(), server: old}
	p.carry(d, wg.Config{Endpoint: netip.MustParseAddrPort("192.0.2.1:1")})

	failed := errors.New("no such name")
	asked, answer := make(chan string), make(chan error)
	lookup := func(endpoint string) (netip.AddrPort, error) {
		asked <- endpoint
		if err := <-answer; err != nil {
			return netip.AddrPort{}, err
		}
		return netip.MustParseAddrPort("192.0.2.2:1"), nil
	}
	for _, test := range []struct {
		what   string
		move   func() error
		answer error
		at     string
	}{
		{"renewed, the name is not found", func() error { return p.extend(time.Unix(1, 0), next, lookup) }, failed, "192.0.2.1:1"},
		{"another key, the name is not found", func() error {
			key := newPrivate()
			err := p.change(&provision.Granted{Server: next, Lease: provision.Lease{ID: "one", Seconds: 60}}, key, time.Unix(1, 0), lookup)
			if n := len(d.set); n == 0 || d.set[n-1].Private != key {
				t.Error("the gateway knows another key by now, and the device has the old one")
			}
			return err
		}, failed, "192.0.2.1:1"},
		{"renewed again", func() error { return p.extend(time.Unix(2, 0), next, lookup) }, nil, "192.0.2.2:1"},
	} {
		moved := make(chan error, 1)
		go func() { moved <- test.move() }()
		if got := <-asked; got != "gw.test:1" {
			t.Fatalf("%s: %s was looked up", test.what, got)
		}
		looked := make(chan struct{})
		go func() {
			defer close(looked)
			p.lost()
			p.ends()
		}()
		select {
		case <-looked:
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: who looks at the peer waits for a name", test.what)
		}
		answer <- test.answer
		if err := <-moved; !errors.Is(err, test.answer) {
			t.Errorf("%s: %v", test.what, err)
		}
		if n := len(d.set); n == 0 || d.set[n-1].Endpoint.String() != test.at {
			t.Errorf("%s: the device was set to %+v", test.what, d.set)
		}
	}
	sets := len(d.set)
	if err := p.extend(time.Unix(3, 0), next, lookup); err != nil || len(d.set) != sets || p.ends() != time.Unix(3, 0) {
		t.Errorf("renewed where it is: %v, set %d times more", err, len(d.set)-sets)
	}
}
