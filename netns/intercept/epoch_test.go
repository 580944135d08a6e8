package intercept

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/names"
)

// TestRulesChangeWhileConnecting: what was decided before the rules changed and is connected only then is held to the new ones.
func TestRulesChangeWhileConnecting(t *testing.T) {
	for name, c := range map[string]struct {
		to, says string
		hears    func(c *client) error
	}{
		"opaque": {"192.0.2.1:80", "\x00hello\n", func(c *client) error {
			if got, reset := c.rest(); got != "" || !reset {
				return fmt.Errorf("%q, reset %v", got, reset)
			}
			return nil
		}},
		"HTTP/1": {"192.0.2.1:80", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", func(c *client) error {
			if resp, got := c.response("GET"); resp.StatusCode != 403 {
				return fmt.Errorf("%d %q", resp.StatusCode, got)
			}
			return nil
		}},
		"names": {"192.0.2.1:53", string(framed(question(t))), func(c *client) error {
			b := make([]byte, 14)
			_, err := io.ReadFull(c.r, b)
			if err == nil && names.Code(b[5]&15) != names.Refused {
				err = fmt.Errorf("%x", b)
			}
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.to, Limits{FirstByte: patience})
			r.dialer.to[""] = server(t, func(c *client) {
				if b, err := c.r.ReadByte(); err == nil {
					t.Errorf("the server was sent %q", b)
				}
			})
			r.dialer.gate = make(chan struct{})
			cl := r.client()
			cl.send(c.says)
			eventually(t, func() error {
				if r.dialer.count() == 0 {
					return fmt.Errorf("nobody dials")
				}
				return nil
			})
			r.rules.set(denyNow)
			r.Redecide()
			close(r.dialer.gate)
			if err := c.hears(cl); err != nil {
				t.Error("the client heard", err)
			}
		})
	}
}

func denyNow(flow.Context) (flow.Decision, error) { return deny("now", "the rules changed"), nil }

// question is a query.
func question(t testing.TB) []byte {
	t.Helper()
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("www.example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	must(t, err)
	return b
}

func packets(t testing.TB) (c *net.UDPConn, at netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// changing makes sockets to an address, and the rules change meanwhile.
type changing struct {
	*rig
	to netip.AddrPort
}

func (c changing) DialPacket(context.Context, flow.Context, flow.Decision) (Socket, error) {
	c.rules.set(denyNow)
	c.Redecide()
	return socketTo(c.to)
}

// TestRulesChangeBeforeAQuery: so is a query by a datagram.
func TestRulesChangeBeforeAQuery(t *testing.T) {
	r := newRig(t, "192.0.2.1:80", Limits{FirstByte: patience})
	by, _ := packets(t)
	_, asked := packets(t)
	client, from := packets(t)
	q := datagram{e: r.Engine, by: by, over: changing{r, asked}, from: from, to: netip.MustParseAddrPort("127.0.0.1:53"), b: question(t)}
	q.serve()
	must(t, client.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 512)
	n, err := client.Read(b)
	must(t, err)
	if l := r.Counters().Lookups; n < 12 || names.Code(b[3]&15) != names.Refused || l.Denied != 1 {
		t.Errorf("%x, %+v", b[:n], l)
	}
}
