package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/marks"
)

// chains makes the chains and rules, in the order in which a packet meets them.
func (t *table) chains() {
	t.inbound()
	t.redirect()
	t.lookups()
	t.output()
	t.leave()
	t.forward()
	t.door()
}

func (t *table) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32, policy nftables.ChainPolicy) *nftables.Chain {
	return t.conn.AddChain(&nftables.Chain{
		Table: t.inet, Name: name, Type: kind, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)), Policy: &policy,
	})
}

func (t *table) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	t.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: all})
	if c.Table == t.inet {
		t.planned[c.Name]++
	}
}

// Priorities of our chains, after iptables' of the same kind.
const (
	priorityMark     = -150
	priorityRedirect = -100
	priorityFilter   = 0
	priorityLast     = 300
)

// inbound marks what comes in by where it came from, so that what answers it leaves by there.
func (t *table) inbound() {
	c := t.chain("inbound", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityMark, nftables.ChainPolicyAccept)
	t.rule(c, meta(expr.MetaKeyIIFNAME, 1), lookup(t.entries, 1, 1), setMeta(expr.MetaKeyMARK, 1))
}

// redirect takes new connections to the interceptor.
func (t *table) redirect() {
	c := t.chain("redirect", nftables.ChainTypeNAT, nftables.ChainHookOutput, priorityRedirect, nftables.ChainPolicyAccept)
	t.rule(c, of(t.interceptor), verdict(expr.VerdictAccept))
	t.local(c)
	t.rule(c, protocol(unix.IPPROTO_TCP), redirectTo(t.port))
}

// output tells whose packet it is. What a socket of the interceptor's sends must be marked. What others send must not be,
// except as an answer to what came in.
func (t *table) output() {
	c := t.chain("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, priorityFilter, nftables.ChainPolicyDrop)
	t.rule(c, meta(expr.MetaKeyOIFNAME, 1), is(name("lo")), verdict(expr.VerdictAccept))
	t.rule(c, of(t.interceptor), meta(expr.MetaKeyMARK, 1), isNot(u32(0)), verdict(expr.VerdictAccept))
	if t.web {
		for _, port := range marks.QUIC {
			t.rule(c, protocol(unix.IPPROTO_UDP), payload(expr.PayloadBaseTransportHeader, 2, 2), is(u16(port)), count(Web),
				[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
		}
	}
	t.rule(c, protocol(unix.IPPROTO_UDP), payload(expr.PayloadBaseTransportHeader, 2, 2), is(u16(domain)), count(Lookup), verdict(expr.VerdictDrop))
	// Answers of the kernel itself, to a connection that it knows nothing of, have the mark of what they answer as well.
	t.rule(c, meta(expr.MetaKeyMARK, 1), is(u32(marks.Inbound)), direction(reply), verdict(expr.VerdictAccept))
	t.rule(c, meta(expr.MetaKeyMARK, 1), isNot(u32(0)), state(expr.CtStateBitNEW), count(Forged), verdict(expr.VerdictDrop))
	t.rule(c, meta(expr.MetaKeyMARK, 1), isNot(u32(0)), count(Stray), verdict(expr.VerdictDrop))
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_IGMP} {
		t.rule(c, protocol(p), verdict(expr.VerdictAccept))
	}
	t.rule(c, count(Bypass))
}

// leave is the last of the namespace: the mark must belong to the device. What passes gets the pass.
func (t *table) leave() {
	c := t.chain("leave", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, priorityLast, nftables.ChainPolicyDrop)
	t.rule(c, meta(expr.MetaKeyOIFNAME, 1), is(name("lo")), verdict(expr.VerdictAccept))
	t.rule(c, meta(expr.MetaKeyMARK, 1), meta(expr.MetaKeyOIFNAME, besideMark), lookup(t.ways, 1, 0),
		immediate(t.pass.Mark), setMeta(expr.MetaKeyMARK, 1), immediate(t.pass.Priority), setMeta(expr.MetaKeyPRIORITY, 1), verdict(expr.VerdictAccept))
	t.rule(c, count(WrongDevice))
}

// besideMark is the register right after the four bytes at the begin of register 1.
const besideMark = unix.NFT_REG32_01

// forward: nobody's packets pass through a container.
func (t *table) forward() {
	c := t.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, priorityFilter, nftables.ChainPolicyDrop)
	t.rule(c, count(Forwarded))
}

// door keeps everybody from the interceptor's port who was not redirected there.
func (t *table) door() {
	c := t.chain("door", nftables.ChainTypeFilter, nftables.ChainHookInput, priorityFilter, nftables.ChainPolicyAccept)
	t.rule(c, protocol(unix.IPPROTO_TCP), payload(expr.PayloadBaseTransportHeader, 2, 2), is(u16(t.port)), direction(original), notTranslated(),
		count(Door), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
}

// guard lets a device send what has the pass, and takes that off again. ARP has no header that a mark could lead by.
func (t *table) guard(device string) {
	policy := nftables.ChainPolicyDrop
	c := t.conn.AddChain(&nftables.Chain{
		Table: t.netdev, Name: device, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress,
		Priority: nftables.ChainPriorityRef(priorityFilter), Policy: &policy, Device: device,
	})
	t.rule(c, meta(expr.MetaKeyPROTOCOL, 1), is(u16(unix.ETH_P_ARP)), verdict(expr.VerdictAccept))
	t.rule(c, meta(expr.MetaKeyMARK, 1), is(u32(t.pass.Mark)), meta(expr.MetaKeyPRIORITY, 1), is(u32(t.pass.Priority)),
		immediate(0), setMeta(expr.MetaKeyMARK, 1), setMeta(expr.MetaKeyPRIORITY, 1), verdict(expr.VerdictAccept))
	t.rule(c, count(Frames))
}

// neighbours has the kernel answer neighbours that ask by a device for the namespace's IPv4 addresses. It looks who asks up as where an answer
// would be routed to, and without a mark everything is routed to this namespace itself: it would take the question for one of its own, and forged.
func (t *table) neighbours(device string) {
	policy := nftables.ChainPolicyAccept
	c := t.conn.AddChain(&nftables.Chain{
		Table: t.netdev, Name: device + "/arp", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
		Priority: nftables.ChainPriorityRef(priorityFilter), Policy: &policy, Device: device,
	})
	t.rule(c, meta(expr.MetaKeyPROTOCOL, 1), is(u16(unix.ETH_P_ARP)), immediate(marks.Inbound), setMeta(expr.MetaKeyMARK, 1))
}
