package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/receipt"
)

// conns tells of the connections of a network namespace, as the kernel counts them.
type conns interface {
	// dump reads those that there are now.
	dump() ([]receipt.Receipt, error)
	// ends waits for one that the kernel forgets. An error says that some may have been missed; after one that wraps errShut there are no more.
	ends() (receipt.Receipt, error)
	close() error
}

// errShut says that a conns is closed.
var errShut = errors.New("closed")

// eventsRoom is what the kernel keeps for us of connections that ended, in bytes: some ten thousand.
const eventsRoom = 8 << 20

// kernelConns is conntrack.
type kernelConns struct {
	ns     *enter.Namespace // of another one's
	table  *conntrack.Conn
	shut   chan struct{}
	listen *conntrack.Conn // nil: nothing is heard; of who calls ends, as is what follows
	events chan conntrack.Event
	failed chan error
}

// openConns opens the kernel's. The error wraps errdefs.ErrNotImplemented where it does not count.
func openConns(ns *enter.Namespace) (_ *kernelConns, err error) {
	c := &kernelConns{ns: ns, shut: make(chan struct{})}
	if err := ns.Do(func() (err error) {
		for _, setting := range []string{"nf_conntrack_acct", "nf_conntrack_timestamp"} { // which were asked for
			if value, err := os.ReadFile("/proc/sys/net/netfilter/" + setting); err != nil || string(bytes.TrimSpace(value)) != "1" {
				return fmt.Errorf("the kernel has no %s: %w", setting, errdefs.ErrNotImplemented)
			}
		}
		c.table, err = conntrack.Dial(nil)
		return err
	}); err != nil {
		return nil, fmt.Errorf("ask for connections: %w", err)
	}
	if err := c.subscribe(); err != nil {
		return nil, errors.Join(err, c.table.Close())
	}
	return c, nil
}

// subscribe has the kernel tell of connections that end.
func (c *kernelConns) subscribe() error {
	return c.ns.Do(func() error {
		listen, err := conntrack.Dial(nil)
		if err != nil {
			return fmt.Errorf("hear of connections that end: %w", err)
		}
		events := make(chan conntrack.Event, 1024)
		_ = listen.SetReadBuffer(eventsRoom) // less is lost sooner, and told
		failed, err := listen.Listen(events, 1, []netfilter.NetlinkGroup{netfilter.GroupCTDestroy})
		if err != nil {
			return errors.Join(fmt.Errorf("hear of connections that end: %w", err), listen.Close())
		}
		c.listen, c.events, c.failed = listen, events, failed
		return nil
	})
}

func (c *kernelConns) dump() ([]receipt.Receipt, error) {
	flows, err := c.table.Dump(nil)
	if err != nil {
		return nil, fmt.Errorf("ask for connections: %w", err)
	}
	all := make([]receipt.Receipt, 0, len(flows))
	for i := range flows {
		all = append(all, counted(&flows[i]))
	}
	return all, nil
}

func (c *kernelConns) ends() (receipt.Receipt, error) {
	select {
	case e := <-c.events:
		r := counted(e.Flow)
		r.Final = true
		return r, nil
	case err := <-c.failed:
		return receipt.Receipt{}, errors.Join(fmt.Errorf("hear of connections that end: %w", err), c.deafen(), c.subscribe())
	case <-c.again():
		return receipt.Receipt{}, errors.Join(errors.New("ends of connections were not heard of"), c.subscribe())
	case <-c.shut:
		return receipt.Receipt{}, errors.Join(errShut, c.deafen())
	}
}

// again is when hearing is tried again, where nothing is heard.
func (c *kernelConns) again() <-chan time.Time {
	if c.listen != nil {
		return nil
	}
	return time.After(time.Second)
}

// deafen ends the hearing. The library waits for its reader, and that for somebody who takes what it has read.
func (c *kernelConns) deafen() error {
	if c.listen == nil {
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- c.listen.Close() }()
	for {
		select {
		case <-c.events:
		case <-c.failed:
		case err := <-closed:
			c.listen, c.events, c.failed = nil, nil, nil
			return err
		}
	}
}

// close has ends return, which lets go of the rest.
func (c *kernelConns) close() error {
	close(c.shut)
	return c.table.Close()
}

// counted is a connection as a receipt, whose it is left open.
func counted(f *conntrack.Flow) receipt.Receipt {
	from, to := f.TupleOrig.IP, f.TupleOrig.Proto
	return receipt.Receipt{
		Protocol: to.Protocol, Peer: netip.AddrPortFrom(from.SourceAddress, to.SourcePort), Server: netip.AddrPortFrom(from.DestinationAddress, to.DestinationPort),
		Began: f.Timestamp.Start,
		Up:    receipt.Count{Bytes: f.CountersOrig.Bytes, Packets: f.CountersOrig.Packets},
		Down:  receipt.Count{Bytes: f.CountersReply.Bytes, Packets: f.CountersReply.Packets},
	}
}
