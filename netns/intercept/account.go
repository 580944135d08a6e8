package intercept

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
)

const (
	// maxEnded is how many accounts of connections that ended are kept until somebody asks.
	maxEnded = 2048
	// maxServers is with how many servers and tunnels datagrams are counted.
	maxServers = 256
)

// accounts are kept of the connections to servers whose gateways count, too: from before their first byte until somebody has asked
// after their end.
type accounts struct {
	since time.Time

	mu    sync.Mutex
	live  numbered[*account] // by ID; guarded by mu, as is all that follows
	ended []flow.Account     // the latest last
	count uint64             // how many have ended
	lost  time.Time          // when the last one ended that was dropped
	left  uint64             // how many were

	datagrams map[counterpart]*tally // guarded by mu
}

// counterpart is who datagrams are exchanged with, and by which tunnel.
type counterpart struct {
	remote netip.AddrPort
	tunnel string
}

// tally is how many bytes of payload were.
type tally struct{ sent, received atomic.Uint64 }

// with is what counts datagrams to and from a server. Beyond maxServers it counts for nobody, which is noted.
func (a *accounts) with(server netip.AddrPort, tunnel string) *tally {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := counterpart{netip.AddrPortFrom(server.Addr().Unmap(), server.Port()), tunnel}
	one := a.datagrams[at]
	switch {
	case one != nil:
	case len(a.datagrams) < maxServers:
		one = new(tally)
		if a.datagrams == nil {
			a.datagrams = make(map[counterpart]*tally)
		}
		a.datagrams[at] = one
	default:
		a.lost = time.Now()
		a.left++
		one = new(tally)
	}
	return one
}

// talliesLocked are those of all.
func (a *accounts) talliesLocked() []flow.Datagrams {
	all := make([]flow.Datagrams, 0, len(a.datagrams))
	for at, n := range a.datagrams {
		all = append(all, flow.Datagrams{Remote: at.remote, Tunnel: at.tunnel, Sent: n.sent.Load(), Received: n.received.Load()})
	}
	return all
}

// account is one that lives.
type account struct {
	flow.Account
	side *side
}

// open begins one of a connection that was asked for at a moment. What it returns ends it, and comes before the connection is closed.
func (a *accounts) open(s *side, tunnel, container string, began time.Time) (end func(reset bool)) {
	one := &account{flow.Account{Local: localOf(s.tcp), Remote: addressOf(s.tcp.RemoteAddr()), Tunnel: tunnel, Container: container, Began: began}, s}
	a.mu.Lock()
	defer a.mu.Unlock()
	one.ID = a.live.add(one)
	return func(reset bool) { a.end(one, reset) }
}

// What may be sent between the last look at a connection and its close: by whoever writes while another resets it, and of TLS an alert.
const (
	racing  = 64 << 10
	closing = 64
)

func (a *accounts) end(one *account, reset bool) {
	out := one.read()
	switch {
	case reset:
		out.Open += racing
	case one.side.tls != nil:
		out.Open += closing
	}
	out.Ended = time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live.remove(one.ID)
	if len(a.ended) == maxEnded {
		a.lost = a.ended[0].Ended
		a.left++
		a.ended = a.ended[1:] // append moves the rest once it has no room
	}
	a.ended = append(a.ended, out)
	a.count++
}

// read has the kernel count. Of a connection that is closed it is what is known already.
func (a *account) read() flow.Account {
	out := a.Account
	_ = a.side.raw.Control(func(fd uintptr) {
		i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		out.Sent, out.Acked, out.Received = i.Bytes_sent, i.Bytes_acked, i.Bytes_received
		out.Open = uint64(i.Notsent_bytes)
		if done := i.Bytes_acked + i.Bytes_retrans; i.Bytes_sent > done {
			out.Open += i.Bytes_sent - done
		}
		if all := uint64(i.Data_segs_in) * uint64(max(i.Rcv_mss, i.Advmss)); all > i.Bytes_received {
			out.Repeated = all - i.Bytes_received
		}
		out.Window = uint64(max(i.Rcv_wnd, i.Rcv_ssthresh))
	})
	return out
}

// Accounts returns at most so many: those that ended after so many had (which it forgets before that), then those that live with
// IDs after one. Next and Live are what to ask with next.
func (e *Engine) Accounts(after, live uint64, most int) flow.Accounts {
	a := &e.accounts
	a.mu.Lock()
	defer a.mu.Unlock()
	out := flow.Accounts{Since: a.since, At: time.Now(), Lost: a.lost, Left: a.left}
	first := a.count - uint64(len(a.ended)) // how many had ended before the first that is kept
	if after > a.count {                    // another interceptor's number
		after = first
	}
	if after > first {
		a.ended = a.ended[after-first:]
		first = after
	}
	n := min(len(a.ended), most)
	out.List, out.Next = slices.Clone(a.ended[:n]), first+uint64(n)
	if out.More = n < len(a.ended); out.More {
		return out
	}
	ids := a.live.after(live)
	if room := most - n; len(ids) > room {
		ids, out.More = ids[:room], true
	}
	for _, id := range ids {
		out.List = append(out.List, a.live.live[id].read())
		if out.More {
			out.Live = id
		}
	}
	if !out.More {
		out.Datagrams = a.talliesLocked()
	}
	return out
}

func localOf(c *net.TCPConn) netip.AddrPort { return addressOf(c.LocalAddr()) }

func addressOf(a net.Addr) netip.AddrPort {
	at, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := at.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
