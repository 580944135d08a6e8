package intercept

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"forefend.dev/forefend/netns/flow"
)

// oneWay is the way of everything.
type oneWay Way

func (w oneWay) Way(context.Context, flow.Context, flow.Decision) (Way, error) { return Way(w), nil }

// TestRootReadBack: a connection that the kernel has on a device of another name than its way's is given up, whatever led to that.
func TestRootReadBack(t *testing.T) {
	if !inside(t) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	must(t, netlink.LinkAddAltName(lo, "another-name"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	c := flow.Context{Destination: netip.MustParseAddrPort(l.Addr().String())}
	for device, ok := range map[string]bool{"": true, "lo": true, "another-name": false} {
		m := Marked{oneWay{Tunnel: "t", Mark: 0x42, Device: device}}
		up, err := m.Dial(context.Background(), c, flow.Decision{})
		if (err == nil) != ok || err == nil && !up.Verified {
			t.Errorf("device %q: %+v, %v", device, up, err)
		}
		if err == nil {
			_ = up.Conn.Close()
		}
		udp, err := m.DialPacket(context.Background(), c, flow.Decision{})
		if (err == nil) != ok {
			t.Errorf("device %q, datagrams: %v", device, err)
		}
		if err == nil {
			_ = udp.Close()
		}
	}
}
