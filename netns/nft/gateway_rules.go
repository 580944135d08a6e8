package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func from(device string) []expr.Any { return append(meta(expr.MetaKeyIIFNAME, 1), is(name(device))...) }
func to(device string) []expr.Any   { return append(meta(expr.MetaKeyOIFNAME, 1), is(name(device))...) }

func (t *table) drop(c *nftables.Chain, cause Counter, match ...[]expr.Any) {
	t.rule(c, append(match, count(cause), verdict(expr.VerdictDrop))...)
}

// prioritySource is before everything that looks at connections.
const prioritySource = -300

// origins: peers send from the pools, and nobody else does. WireGuard holds each to its own address.
func (t *table) origins(g Gateway) {
	peers := t.conn.AddChain(&nftables.Chain{Table: t.inet, Name: "peers"})
	for _, ours := range g.pools(upward) {
		t.rule(peers, ours, verdict(expr.VerdictReturn))
	}
	t.drop(peers, Spoofed)
	c := t.chain("origins", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, prioritySource, nftables.ChainPolicyAccept)
	t.rule(c, from(g.Device), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: peers.Name}})
	for _, ours := range g.pools(upward) {
		t.drop(c, Spoofed, from(g.Uplink), ours)
	}
}

// itself: peers may see that the gateway is there, and reach nothing of it.
func (t *table) itself(g Gateway) {
	c := t.chain("itself", nftables.ChainTypeFilter, nftables.ChainHookInput, priorityFilter, nftables.ChainPolicyAccept)
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		t.rule(c, from(g.Device), protocol(p), verdict(expr.VerdictAccept))
	}
	t.drop(c, Local, from(g.Device))
}

// between is what passes from one device to another.
func (t *table) between(g Gateway, up, down *nftables.Set) {
	policy := nftables.ChainPolicyDrop
	if g.Others4 || g.Others6 {
		policy = nftables.ChainPolicyAccept
	}
	c := t.chain("between", nftables.ChainTypeFilter, nftables.ChainHookForward, priorityFilter, policy)
	t.drop(c, Between, from(g.Device), to(g.Device))
	for _, clamp := range [][][]expr.Any{{from(g.Device)}, {to(g.Device)}} {
		t.rule(c, append(clamp, fits()...)...)
	}
	for _, tail := range g.tails(upward) {
		t.rule(c, from(g.Device), to(g.Uplink), tail, lookup(up, 1, unix.NFT_REG_VERDICT))
	}
	t.rule(c, from(g.Device), to(g.Uplink), verdict(expr.VerdictAccept))
	t.drop(c, Astray, from(g.Device))
	for _, tail := range g.tails(downward) {
		t.rule(c, from(g.Uplink), to(g.Device), tail, lookup(down, 1, unix.NFT_REG_VERDICT))
	}
	t.rule(c, from(g.Uplink), to(g.Device), state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	t.drop(c, Unasked, to(g.Device))
	if !g.Others4 {
		t.drop(c, Strange, family(unix.NFPROTO_IPV4))
	}
	if !g.Others6 {
		t.drop(c, Strange, family(unix.NFPROTO_IPV6))
	}
}

// fits lowers the segment size of a connection that begins to what fits both ways.
func fits() [][]expr.Any {
	const optMSS, flagsAt, syn, rst = 2, 13, 0x02, 0x04
	flags := append(payload(expr.PayloadBaseTransportHeader, flagsAt, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}})
	return [][]expr.Any{protocol(unix.IPPROTO_TCP), append(flags, is([]byte{syn})...), {
		&expr.Rt{Key: expr.RtTCPMSS, Register: 1},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: optMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
	}}
}

// prioritySNAT is that of every source translation.
const prioritySNAT = 100

// masquerade has peers leave as the gateway.
func (t *table) masquerade(g Gateway) {
	c := t.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, prioritySNAT, nftables.ChainPolicyAccept)
	for _, ours := range g.pools(upward) {
		t.rule(c, to(g.Uplink), ours, []expr.Any{&expr.Masq{}})
	}
}
