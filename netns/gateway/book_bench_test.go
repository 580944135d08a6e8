package gateway

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/ti-mo/conntrack"

	"forefend.dev/forefend/netns/receipt"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/processor"
)

// BenchmarkRootReceipts is what it costs a gateway to read and answer with 1,000 connections of a node.
func BenchmarkRootReceipts(b *testing.B) {
	w := newWorld(b, nil)
	w.gateway.book.own(nodeName, leaseID, 100, []netip.Prefix{netip.MustParsePrefix("10.8.1.2/32")})
	network.In(b, w.at, func() error {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range 1000 {
			var server [4]byte
			binary.BigEndian.PutUint32(server[:], 0xC6336400+uint32(i))
			f := conntrack.NewFlow(6, 0, netip.MustParseAddr("10.8.1.2"), netip.AddrFrom4(server), uint16(2000+i), 443, 600, 0)
			f.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: 3}
			if err := c.Create(f); err != nil {
				return err
			}
		}
		return nil
	})
	processor.Time(b)
	for b.Loop() {
		s, err := w.gateway.book.answer(nodeName, receipt.Nonce{}, 0)
		if err != nil || len(s.Receipts) != receipt.MaxReceipts || !s.More {
			b.Fatalf("%d receipts: %v", len(s.Receipts), err)
		}
		s.Sign(w.gateway.seal)
	}
}
