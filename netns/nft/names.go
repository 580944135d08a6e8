package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// domain is the port of name servers.
const domain = 53

// priorityRaw is before conntrack looks at a packet.
const priorityRaw = -300

// lookups takes queries for names to the interceptor. A datagram to a name server outside is routed to this namespace itself (package
// route), comes in by loopback with the server's address still on it, and is given to the interceptor's socket as it is: there is no
// translation, since who receives a datagram could not be told what its destination was. The answers are the interceptor's, who
// may use any address but not a server's port: that is written here, before conntrack sees them, so that they belong to the query.
func (t *table) lookups() {
	c := t.chain("lookups", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityMark, nftables.ChainPolicyAccept)
	t.rule(c, meta(expr.MetaKeyIIFNAME, 1), isNot(name("lo")), verdict(expr.VerdictAccept))
	t.local(c)
	t.rule(c, protocol(unix.IPPROTO_UDP), payload(expr.PayloadBaseTransportHeader, 2, 2), is(u16(domain)), tproxyTo(t.port), verdict(expr.VerdictAccept))

	c = t.chain("answers", nftables.ChainTypeFilter, nftables.ChainHookOutput, priorityRaw, nftables.ChainPolicyAccept)
	t.rule(c, meta(expr.MetaKeyOIFNAME, 1), is(name("lo")), of(t.interceptor), protocol(unix.IPPROTO_UDP),
		payload(expr.PayloadBaseTransportHeader, 0, 2), is(u16(t.port)), writeSourcePort(domain))
}

// local has the chain accept what goes to loopback and to the namespace's own addresses.
func (t *table) local(c *nftables.Chain) {
	t.rule(c, family(unix.NFPROTO_IPV4), payload(expr.PayloadBaseNetworkHeader, 16, 1), is([]byte{127}), verdict(expr.VerdictAccept))
	t.rule(c, family(unix.NFPROTO_IPV4), payload(expr.PayloadBaseNetworkHeader, 16, 4), lookup(t.own4, 1, 0), verdict(expr.VerdictAccept))
	t.rule(c, family(unix.NFPROTO_IPV6), payload(expr.PayloadBaseNetworkHeader, 24, 16), is(append(make([]byte, 15), 1)), verdict(expr.VerdictAccept))
	t.rule(c, family(unix.NFPROTO_IPV6), payload(expr.PayloadBaseNetworkHeader, 24, 16), lookup(t.own6, 1, 0), verdict(expr.VerdictAccept))
}

func tproxyTo(port uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: u16(port)}, &expr.TProxy{RegPort: 1}}
}

// writeSourcePort writes it into a datagram, and corrects its sum.
func writeSourcePort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2,
			CsumType: expr.CsumTypeInet, CsumOffset: 6,
		},
	}
}
