package intercept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"forefend.dev/forefend/netns/flow"
)

// seldom is a rate that others share.
var seldom = flow.Rate{Requests: 1, Scope: flow.PerRule, Rule: "seldom"}

func atMost(flow.Context) (flow.Decision, error) {
	return flow.Decision{Version: flow.Version, Profile: flow.Profile{Rates: []flow.Rate{seldom}}}, nil
}

// TestTurnsGivenBack: streams that end before their turn take nothing of a limit that others share.
func TestTurnsGivenBack(t *testing.T) {
	r := newRig(t, h2cServer(t, named("s")), Limits{FirstByte: patience})
	r.rules.remember.Store(true)
	r.rules.set(atMost)
	f := r.framer()
	for i := range uint32(200) {
		f.open(2*i+1, true, f.get("/"))
	}
	for i := range uint32(100) {
		must(t, f.WriteRSTStream(2*i+1, xhttp2.ErrCodeCancel))
	}
	f.ping()
	owed := func() time.Duration { return r.rates.get(seldom, "", 'r', 1).Owed(time.Now()) }
	if o := owed(); o > 120*time.Second {
		t.Errorf("%v are owed for 100 streams that wait", o)
	}
	_ = f.conn.Close()
	eventually(t, func() error {
		if o := owed(); o > 10*time.Second {
			return fmt.Errorf("%v are owed for nobody", o)
		}
		return nil
	})
}

// noPackets sends no datagrams.
type noPackets struct{}

func (noPackets) DialPacket(context.Context, flow.Context, flow.Decision) (Socket, error) {
	return Socket{}, errors.New("nobody is asked")
}

// TestLateQueries: a query whose turn would come when its client has long asked again is dropped and takes no turn.
func TestLateQueries(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
	r.rules.set(atMost)
	limit := r.rates.get(seldom, "", 'r', 1)
	limit.Take(time.Now(), 600)
	by, from := packets(t)
	q := datagram{e: r.Engine, by: by, over: noPackets{}, from: from, to: netip.MustParseAddrPort("192.0.2.53:53"), b: question(t)}
	q.serve()
	if l := r.Counters().Lookups; l.Dropped != 1 || l.Failed != 0 || limit.Owed(time.Now()) > 600*time.Second {
		t.Errorf("%+v, %v are owed", l, limit.Owed(time.Now()))
	}
}
