package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Counter is a cause for which packets are dropped.
type Counter string

// The causes.
const (
	WrongDevice Counter = "wrong_device" // its mark belongs to another device
	Forged      Counter = "forged"       // a new connection with a mark, from outside the interceptor
	Stray       Counter = "stray"        // another marked packet from outside the interceptor, of one that it closed already for instance
	Bypass      Counter = "bypass"       // neither redirected nor a datagram: a raw socket's, or another protocol
	Web         Counter = "web"          // UDP to port 443 or 853
	Lookup      Counter = "lookup"       // a query for a name that did not go by the interceptor
	Forwarded   Counter = "forwarded"    // from one device to another
	Door        Counter = "door"         // straight to the interceptor's port
	Frames      Counter = "frames"       // a packet socket's
)

var counters = []Counter{WrongDevice, Forged, Stray, Bypass, Web, Lookup, Forwarded, Door, Frames}

// of is the table that a counter is in.
func (t *table) of(c Counter) *nftables.Table {
	if c == Frames {
		return t.netdev
	}
	return t.inet
}

// Counts reads how many packets each cause has dropped since Set, without the causes that dropped none.
func Counts() (map[Counter]uint64, error) {
	t, err := dial()
	if err != nil {
		return nil, err
	}
	defer t.close()
	counts := make(map[Counter]uint64)
	for _, whole := range []*nftables.Table{t.inet, t.netdev} {
		if err := t.counted(whole, counts); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// counted adds what a table's counters have counted.
func (t *table) counted(whole *nftables.Table, counts map[Counter]uint64) error {
	objects, err := t.conn.GetNamedObjects(whole)
	if err != nil {
		return fmt.Errorf("read counters of egress rules: %w", err)
	}
	for _, o := range objects {
		named, ok := o.(*nftables.NamedObj)
		if !ok {
			continue
		}
		if c, ok := named.Obj.(*expr.Counter); ok && c.Packets > 0 {
			counts[Counter(named.Name)] = c.Packets
		}
	}
	return nil
}
