package intercept

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
	"forefend.dev/forefend/netns/intercept/names"
)

// other is a rate beside seldom, of the same kind.
var other = flow.Rate{Requests: 1, Scope: flow.PerRule, Rule: "other"}

func atOther(flow.Context) (flow.Decision, error) {
	return flow.Decision{Version: flow.Version, Profile: flow.Profile{Rates: []flow.Rate{other}}}, nil
}

// answersNames answers each query of a connection with itself, as an answer.
func answersNames(c *client) {
	for {
		b := make([]byte, 2+len(question(c.t)))
		if _, err := io.ReadFull(c.r, b); err != nil {
			return
		}
		b[4] |= 0x80
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// TestChargedOnce: a request that is decided again, since the rules changed while its connection was made, takes one turn of what it is
// decided by then, and none of what it was decided by before.
func TestChargedOnce(t *testing.T) {
	query := func(t *testing.T, r *rig) func() string {
		c := r.client()
		c.send(string(framed(question(t))))
		return func() string {
			b := make([]byte, 14)
			if _, err := io.ReadFull(c.r, b); err != nil {
				return err.Error()
			}
			if names.Code(b[5]&15) == names.Refused {
				return "403"
			}
			return "200"
		}
	}
	for name, p := range map[string]struct {
		to    string
		serve func(t *testing.T) string
		ask   func(t *testing.T, r *rig) func() string // which waits for the answer and says what it was
	}{
		"HTTP/1": {"192.0.2.1:80", func(t *testing.T) string { return echo(t, "s") }, func(t *testing.T, r *rig) func() string {
			c := r.client()
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			return func() string {
				resp, _ := c.response("GET")
				return strconv.Itoa(resp.StatusCode)
			}
		}},
		"HTTP/2": {"192.0.2.1:80", func(t *testing.T) string { return h2cServer(t, http.NotFoundHandler()) }, func(t *testing.T, r *rig) func() string {
			c := newFramer(t, r.client().TCPConn)
			_, err := io.WriteString(c.conn, http2.Preface)
			must(t, err)
			must(t, c.WriteSettings())
			c.open(1, true, c.get("/"))
			return func() string {
				status := c.anyAnswer(1)
				if status == "404" {
					return "200"
				}
				return status
			}
		}},
		"names": {"192.0.2.1:53", func(t *testing.T) string { return server(t, answersNames) }, query},
	} {
		for then, after := range map[string]struct {
			rule          func(flow.Context) (flow.Decision, error)
			status        string
			seldom, newly time.Duration // what is owed more than before, and of other
		}{
			"the same rate": {rule: atMost, status: "200"},
			"another rate":  {rule: atOther, status: "200", seldom: -time.Second, newly: time.Second},
			"denied":        {rule: denyNow, status: "403", seldom: -time.Second},
			"no decision":   {rule: func(flow.Context) (flow.Decision, error) { return flow.Decision{}, io.ErrNoProgress }, seldom: -time.Second},
		} {
			t.Run(name+", "+then, func(t *testing.T) {
				r := newRig(t, p.to, Limits{FirstByte: patience})
				r.dialer.to[""], r.dialer.gate = p.serve(t), make(chan struct{})
				r.rules.set(atMost)
				at := time.Now()
				owed := func(w flow.Rate) time.Duration { return r.rates.get(w, "", 'r', 1).Owed(at) }
				answer := p.ask(t, r)
				eventually(t, func() error {
					if r.dialer.count() == 0 {
						return fmt.Errorf("nobody dials")
					}
					return nil
				})
				before := owed(seldom)
				r.rules.set(after.rule)
				r.Redecide()
				close(r.dialer.gate)
				if got := answer(); after.status != "" && got != after.status {
					t.Errorf("answered with %s, want %s", got, after.status)
				}
				if more := owed(seldom) - before; more != after.seldom {
					t.Errorf("of the rate before %v more are owed, want %v", more, after.seldom)
				}
				if newly := owed(other); newly < after.newly || after.newly == 0 && newly > 0 {
					t.Errorf("of the other rate %v are owed, want %v", newly, after.newly)
				}
			})
		}
	}
}

// changed makes sockets to an address, and the rules change meanwhile, once.
type changed struct {
	*rig
	to   netip.AddrPort
	then func(flow.Context) (flow.Decision, error)
	owed func() time.Duration
	was  *time.Duration // what was owed before
}

func (c changed) DialPacket(context.Context, flow.Context, flow.Decision) (Socket, error) {
	if *c.was < 0 {
		c.rates.get(seldom, "", 'r', 1).Take(time.Now(), 5) // others have their turns after it
		*c.was = c.owed()
		c.rules.set(c.then)
		c.Redecide()
	}
	return socketTo(c.to)
}

// socketTo is one of this process' own, by no tunnel.
func socketTo(to netip.AddrPort) (Socket, error) {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	return Socket{UDPConn: c}, err
}

// TestQueryChargedOnce: so does a query by a datagram, which is not late for the turn that it has.
func TestQueryChargedOnce(t *testing.T) {
	for name, c := range map[string]struct {
		then func(flow.Context) (flow.Decision, error)
		more time.Duration
		code names.Code
	}{
		"the same rate": {atMost, 0, names.Failed},
		"another rate":  {atOther, -time.Second, names.Failed},
		"denied":        {denyNow, -time.Second, names.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
			r.rules.set(atMost)
			by, _ := packets(t)
			client, from := packets(t)
			nobody, closed := packets(t)
			must(t, nobody.Close()) // whoever is asked there hears so at once
			at, was := time.Now(), time.Duration(-1)
			owed := func() time.Duration { return r.rates.get(seldom, "", 'r', 1).Owed(at) }
			q := datagram{e: r.Engine, by: by, over: changed{r, closed, c.then, owed, &was}, from: from, to: netip.MustParseAddrPort("127.0.0.1:53"), b: question(t)}
			q.serve()
			if more := owed() - was; more != c.more {
				t.Errorf("%v more are owed, want %v", more, c.more)
			}
			must(t, client.SetReadDeadline(time.Now().Add(patience)))
			b := make([]byte, 512)
			n, err := client.Read(b)
			must(t, err)
			if l := r.Counters().Lookups; n < 12 || names.Code(b[3]&15) != c.code || l.Dropped != 0 {
				t.Errorf("%x, %+v", b[:n], l)
			}
		})
	}
}

// anyAnswer reads the head of a stream's answer and returns its status.
func (f *framer) anyAnswer(stream uint32) string {
	f.t.Helper()
	return f.until(func(frame xhttp2.Frame) bool {
		return frame.Header().Type == xhttp2.FrameHeaders && frame.Header().StreamID == stream
	}).(*xhttp2.MetaHeadersFrame).PseudoValue("status")
}
