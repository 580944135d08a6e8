package gate

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// license of the programs; they call nothing that is for the GPL only.
const license = "Apache-2.0"

// Offsets in the kernel's struct __sk_buff, bpf_sock and bpf_sock_ops (include/uapi/linux/bpf.h).
const (
	skbProtocol  = 16
	skbIfindex   = 40
	skbSock      = 168
	sockProtocol = 12
	sockState    = 72
	opsOp        = 0
	opsFamily    = 20
	opsRemote4   = 24
	opsRemote6   = 32
	opsRemote    = 64 // port
	opsLocal     = 68 // port
	opsSock      = 184
)

// Numbers of protocols, states and operations.
const (
	protoTCP       = 6
	protoUDP       = 17
	protoICMPv6    = 58
	etherIPv4      = 0x0800
	etherIPv6      = 0x86dd
	tcpListen      = 10
	tcpFlags       = 13 // offset in TCP's header
	tcpSYN         = 0x02
	tcpACK         = 0x10
	opPassive      = 5 // BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
	familyIPv4     = 2
	loopback       = 1 // interface, in every network namespace
	icmp6Solicit   = 133
	icmp6Advertise = 136
	forceWakeup    = 1 << 1
	onlyNew        = 1 // BPF_NOEXIST, and BPF_SK_STORAGE_GET_F_CREATE
)

// What an egress program answers (kernel/bpf/cgroup.c).
const (
	pass = 1
	// refuseLoud fails the call that sends, with EPERM: datagrams.
	refuseLoud = 0
	// refuseAgain is NET_XMIT_DROP. To TCP that is a full queue of its own host: it tries again every half second
	// instead of ever more seldom, and gives up a handshake after some seconds instead of two minutes. Established connections it
	// would give up as soon (measured), so these see a loss, and wait for a quarter of an hour.
	refuseAgain = 2
)

// Places on the stack, below the frame pointer.
const (
	atEvent  = -40  // event
	atKey    = -64  // lpmKey
	atPeer   = -88  // remote address, remote port, local port, 4 bytes of nothing
	atHeader = -128 // of IP, 40 bytes
	atPorts  = -136 // source, destination
	atType   = -144 // of ICMPv6, then hop limit is in the header
	atIndex  = -152 // 32 bits
	atValue  = -160 // 64 bits
	atAnswer = -168 // what the program returns
	atStart  = -176 // of the header behind IP's
	atLimit  = -184
	atSet    = -224 // setKey
)

// maps are what the programs look into.
type maps struct {
	state    *ebpf.Map // cgroup storage: state
	sets     *ebpf.Map // by setKey: verdicts
	feeds    *ebpf.Map // [0]: listed prefixes
	peers    *ebpf.Map // by cgroup: correspondents by datagrams
	rings    *ebpf.Map // by cgroup: events
	accepted *ebpf.Map // sockets that came of accept
	seen     *ebpf.Map // what was reported lately
	framed   *ebpf.Map // cgroups whose packet sockets send nothing
}

// handles are the maps' descriptors, as programs name them.
type handles struct{ state, sets, feeds, peers, rings, accepted, seen, framed int }

func (m *maps) handles() handles {
	return handles{m.state.FD(), m.sets.FD(), m.feeds.FD(), m.peers.FD(), m.rings.FD(), m.accepted.FD(), m.seen.FD(), m.framed.FD()}
}

// direction of a packet, seen from the container.
type direction bool

const (
	outward direction = true
	inward  direction = false
)

func load(dst, src asm.Register, offset int16, size asm.Size) asm.Instruction {
	return asm.LoadMem(dst, src, offset, size)
}

func frame(dst asm.Register, at int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Reg(dst, asm.RFP), asm.Add.Imm(dst, at)}
}

func join(parts ...asm.Instructions) asm.Instructions {
	var all asm.Instructions
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func label(name string, first asm.Instruction) asm.Instructions {
	return asm.Instructions{first.WithSymbol(name)}
}

// lookup leaves in R0 what m has under the key at a place on the stack.
func lookup(m int, at int32) asm.Instructions {
	return join(asm.Instructions{asm.LoadMapPtr(asm.R1, m)}, frame(asm.R2, at), asm.Instructions{asm.FnMapLookupElem.Call()})
}

// lookupInner is lookup in the map that R0 points to.
func lookupInner(at int32) asm.Instructions {
	return join(asm.Instructions{asm.Mov.Reg(asm.R1, asm.R0)}, frame(asm.R2, at), asm.Instructions{asm.FnMapLookupElem.Call()})
}

// begin saves the context in R6, lets loopback pass, and loads the container's state into R7, its flags into R8.
func begin(m handles) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		load(asm.R2, asm.R6, skbIfindex, asm.Word),
		asm.JEq.Imm(asm.R2, loopback, "pass"),
		asm.LoadMapPtr(asm.R1, m.state),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnGetLocalStorage.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		load(asm.R8, asm.R7, stateFlags, asm.Word),
		asm.JEq.Imm(asm.R8, 0, "pass"),
	}
}

// loadBytes copies n bytes of the packet from the offset in R2 to the stack; R0 is 0 if it could.
func loadBytes(at, n int32) asm.Instructions {
	return join(asm.Instructions{asm.Mov.Reg(asm.R1, asm.R6)}, frame(asm.R3, at), asm.Instructions{asm.Mov.Imm(asm.R4, n), asm.FnSkbLoadBytes.Call()})
}

// parse reads the headers: the other side's address into the key, its port and ours into the peer, the protocol into R9. A
// packet without ports, such as a later fragment, has zeros for them; one that cannot be read goes to "odd".
func parse(d direction) asm.Instructions {
	remote4, remote6, remotePort, localPort := int16(12), int16(8), int16(0), int16(2)
	if d == outward {
		remote4, remote6, remotePort, localPort = 16, 24, 2, 0
	}
	zero := asm.Instructions{
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, atKey+keyAddr, asm.R1, asm.DWord), asm.StoreMem(asm.RFP, atKey+keyAddr+8, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, atPeer, asm.R1, asm.DWord), asm.StoreMem(asm.RFP, atPeer+8, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, atPeer+16, asm.R1, asm.DWord), asm.StoreMem(asm.RFP, atPorts, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, atType, asm.R1, asm.DWord), asm.StoreMem(asm.RFP, atLimit, asm.R1, asm.DWord),
		asm.StoreMem(asm.RFP, atStart, asm.R1, asm.DWord),
		asm.StoreImm(asm.RFP, atKey+keyBits, keyBitsMost, asm.Word), asm.StoreImm(asm.RFP, atKey+keyFamily, 6, asm.Word),
		asm.Mov.Imm(asm.R9, 0),
		load(asm.R2, asm.R6, skbProtocol, asm.Word),
		asm.JEq.Imm(asm.R2, network16(etherIPv6), "ipv6"),
		asm.JNE.Imm(asm.R2, network16(etherIPv4), "odd"),
		asm.Mov.Imm(asm.R2, 0),
	}
	ipv4 := asm.Instructions{
		asm.JNE.Imm(asm.R0, 0, "odd"),
		asm.StoreImm(asm.RFP, atKey+keyFamily, 4, asm.Word),
		asm.LoadImm(asm.R1, network32(0xffff), asm.DWord), asm.StoreMem(asm.RFP, atPeer+8, asm.R1, asm.Word),
		load(asm.R1, asm.RFP, atHeader+remote4, asm.Word),
		asm.StoreMem(asm.RFP, atKey+keyAddr, asm.R1, asm.Word), asm.StoreMem(asm.RFP, atPeer+12, asm.R1, asm.Word),
		load(asm.R9, asm.RFP, atHeader+9, asm.Byte),
		load(asm.R1, asm.RFP, atHeader+6, asm.Half), asm.And.Imm(asm.R1, network16(0x1fff)), asm.JNE.Imm(asm.R1, 0, "parsed"),
		load(asm.R2, asm.RFP, atHeader, asm.Byte), asm.And.Imm(asm.R2, 15), asm.LSh.Imm(asm.R2, 2),
		asm.Ja.Label("ports"),
	}
	ipv6 := asm.Instructions{asm.JNE.Imm(asm.R0, 0, "odd")}
	for i := int16(0); i < 16; i += 4 {
		ipv6 = append(ipv6, load(asm.R1, asm.RFP, atHeader+remote6+i, asm.Word),
			asm.StoreMem(asm.RFP, atKey+keyAddr+i, asm.R1, asm.Word), asm.StoreMem(asm.RFP, atPeer+i, asm.R1, asm.Word))
	}
	ipv6 = append(ipv6, load(asm.R9, asm.RFP, atHeader+6, asm.Byte), load(asm.R1, asm.RFP, atHeader+7, asm.Byte),
		asm.StoreMem(asm.RFP, atLimit, asm.R1, asm.DWord), asm.Mov.Imm(asm.R2, 40))
	ports := asm.Instructions{
		asm.StoreMem(asm.RFP, atStart, asm.R2, asm.DWord).WithSymbol("ports"),
		asm.JEq.Imm(asm.R9, protoTCP, "hasPorts"),
		asm.JEq.Imm(asm.R9, protoUDP, "hasPorts"),
		asm.JNE.Imm(asm.R9, protoICMPv6, "parsed"),
	}
	return join(zero, loadBytes(atHeader, 20), ipv4,
		label("ipv6", asm.Mov.Imm(asm.R2, 0)), loadBytes(atHeader, 40), ipv6, ports, loadBytes(atType, 1),
		asm.Instructions{asm.Ja.Label("parsed")},
		label("hasPorts", load(asm.R2, asm.RFP, atStart, asm.DWord)), loadBytes(atPorts, 4),
		asm.Instructions{
			load(asm.R1, asm.RFP, atPorts+remotePort, asm.Half), asm.StoreMem(asm.RFP, atPeer+16, asm.R1, asm.Half),
			load(asm.R1, asm.RFP, atPorts+localPort, asm.Half), asm.StoreMem(asm.RFP, atPeer+18, asm.R1, asm.Half),
		},
		label("parsed", asm.Mov.Imm(asm.R1, 0)),
	)
}

// copyWords copies an address on the stack.
func copyWords(to, from int16) asm.Instructions {
	var all asm.Instructions
	for i := int16(0); i < 16; i += 4 {
		all = append(all, load(asm.R1, asm.RFP, from+i, asm.Word), asm.StoreMem(asm.RFP, to+i, asm.R1, asm.Word))
	}
	return all
}

// neighbours lets the kernel's own neighbour discovery pass: its socket is in the cgroup of whoever made the network namespace,
// which is the container's when runc did, and IPv6 of every container in it would cease. A packet is that when
// it is ICMPv6 of types 133 to 136 with hop limit 255, which no router forwards, and short.
func neighbours() asm.Instructions {
	const longest = 40 + 8 + 16 + 16
	return asm.Instructions{
		asm.JNE.Imm(asm.R9, protoICMPv6, "noNeighbour"),
		load(asm.R1, asm.RFP, atLimit, asm.DWord), asm.JNE.Imm(asm.R1, 255, "noNeighbour"),
		load(asm.R1, asm.RFP, atType, asm.Byte), asm.JLT.Imm(asm.R1, icmp6Solicit, "noNeighbour"), asm.JGT.Imm(asm.R1, icmp6Advertise, "noNeighbour"),
		load(asm.R1, asm.R6, 0, asm.Word), asm.JGT.Imm(asm.R1, longest, "noNeighbour"),
		asm.Ja.Label("pass"),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("noNeighbour"),
	}
}

// egress is the program for what a container sends.
func egress(m handles) asm.Instructions {
	return join(begin(m), parse(outward), neighbours(),
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R8), asm.And.Imm(asm.R1, flagOff), asm.Mov.Imm(asm.R2, int32(RefusedOff)),
			asm.JNE.Imm(asm.R1, 0, "refuse"),
		},
		answers(m), bySet(m), byFeeds(m),
		label("byDefault", asm.Mov.Reg(asm.R1, asm.R8)),
		asm.Instructions{
			asm.And.Imm(asm.R1, flagClosed), asm.Mov.Imm(asm.R2, int32(RefusedClosed)), asm.JNE.Imm(asm.R1, 0, "refuse"),
			asm.Ja.Label("begun"),
		},
		begun(m),
		// Cannot be read: whoever has a rule that might forbid it does not send it.
		label("odd", asm.Mov.Reg(asm.R1, asm.R8)),
		asm.Instructions{
			asm.And.Imm(asm.R1, flagOff|flagClosed), asm.JEq.Imm(asm.R1, 0, "pass"),
			asm.Mov.Imm(asm.R0, refuseLoud), asm.Return(),
		},
		// R2 is the kind.
		label("refuse", asm.StoreMem(asm.RFP, atEvent+eventKind, asm.R2, asm.Byte)),
		asm.Instructions{
			asm.Mov.Imm(asm.R1, refuseLoud), asm.StoreMem(asm.RFP, atAnswer, asm.R1, asm.DWord),
			asm.JNE.Imm(asm.R9, protoTCP, "note"),
			load(asm.R2, asm.RFP, atStart, asm.DWord), asm.Add.Imm(asm.R2, tcpFlags),
		},
		loadBytes(atType, 1), asm.Instructions{
			asm.JNE.Imm(asm.R0, 0, "note"),
			load(asm.R1, asm.RFP, atType, asm.Byte), asm.And.Imm(asm.R1, tcpSYN|tcpACK), asm.JNE.Imm(asm.R1, tcpSYN, "note"),
			asm.Mov.Imm(asm.R1, refuseAgain), asm.StoreMem(asm.RFP, atAnswer, asm.R1, asm.DWord),
			asm.Ja.Label("note"),
		},
		label("watch", asm.StoreMem(asm.RFP, atEvent+eventKind, asm.R2, asm.Byte)),
		asm.Instructions{asm.Mov.Imm(asm.R1, pass), asm.StoreMem(asm.RFP, atAnswer, asm.R1, asm.DWord)},
		note(m),
		label("pass", asm.Mov.Imm(asm.R0, pass)), asm.Instructions{asm.Return()},
	)
}

// answers lets pass what the other side began: connections that were accepted, and datagrams to who has sent one lately.
func answers(m handles) asm.Instructions {
	return join(
		asm.Instructions{
			load(asm.R1, asm.R6, skbSock, asm.DWord), asm.JEq.Imm(asm.R1, 0, "ask"),
			asm.FnSkFullsock.Call(), asm.JEq.Imm(asm.R0, 0, "ask"),
			load(asm.R1, asm.R0, sockProtocol, asm.Word),
			asm.JEq.Imm(asm.R1, protoUDP, "datagram"),
			asm.JNE.Imm(asm.R1, protoTCP, "ask"),
			load(asm.R1, asm.R0, sockState, asm.Word), asm.JEq.Imm(asm.R1, tcpListen, "pass"),
			asm.Mov.Reg(asm.R2, asm.R0), asm.LoadMapPtr(asm.R1, m.accepted), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, 0),
			asm.FnSkStorageGet.Call(), asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.Ja.Label("ask"),
		},
		label("datagram", load(asm.R1, asm.R7, stateID, asm.DWord)),
		asm.Instructions{asm.StoreMem(asm.RFP, atValue, asm.R1, asm.DWord)},
		lookup(m.peers, atValue), asm.Instructions{asm.JEq.Imm(asm.R0, 0, "ask")},
		lookupInner(atPeer), asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, "ask"),
			load(asm.R1, asm.R0, 0, asm.DWord), asm.JEq.Imm(asm.R1, 0, "ask"),
			asm.StoreMem(asm.RFP, atValue, asm.R1, asm.DWord), asm.FnKtimeGetNs.Call(), load(asm.R1, asm.RFP, atValue, asm.DWord),
			asm.Sub.Reg(asm.R0, asm.R1), asm.LoadImm(asm.R1, answerWithin, asm.DWord),
			asm.JLE.Reg(asm.R0, asm.R1, "pass"),
		},
	)
}

// bySet asks the container's own set. What it allows passes whatever the feeds say.
func bySet(m handles) asm.Instructions {
	return join(
		label("ask", asm.Mov.Reg(asm.R1, asm.R8)),
		asm.Instructions{
			asm.And.Imm(asm.R1, flagSet), asm.JEq.Imm(asm.R1, 0, "byFeeds"),
			load(asm.R1, asm.R7, stateID, asm.DWord), asm.StoreMem(asm.RFP, atSet+setCgroup, asm.R1, asm.DWord),
			load(asm.R1, asm.R7, stateSet, asm.DWord), asm.StoreMem(asm.RFP, atSet+setVersion, asm.R1, asm.DWord),
			asm.StoreImm(asm.RFP, atSet, setBitsMost, asm.Word),
			load(asm.R1, asm.RFP, atKey+keyFamily, asm.Word), asm.StoreMem(asm.RFP, atSet+setFamily, asm.R1, asm.Word),
		},
		copyWords(atSet+setAddr, atKey+keyAddr), lookup(m.sets, atSet), asm.Instructions{
			asm.Mov.Imm(asm.R2, int32(RefusedSet)), asm.JEq.Imm(asm.R0, 0, "refuse"), // no set: closed
			load(asm.R1, asm.R0, 0, asm.Word),
			asm.JEq.Imm(asm.R1, verdictAllow, "begun"), asm.JEq.Imm(asm.R1, verdictNone, "byFeeds"), asm.Ja.Label("refuse"),
		},
	)
}

// byFeeds asks the node's feeds.
func byFeeds(m handles) asm.Instructions {
	return join(
		label("byFeeds", asm.Mov.Reg(asm.R1, asm.R8)),
		asm.Instructions{
			asm.And.Imm(asm.R1, flagFeedsWatch|flagFeedsBlock), asm.JEq.Imm(asm.R1, 0, "byDefault"),
			asm.StoreImm(asm.RFP, atIndex, 0, asm.Word),
		},
		lookup(m.feeds, atIndex), asm.Instructions{asm.JEq.Imm(asm.R0, 0, "byDefault")},
		lookupInner(atKey), asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, "byDefault"),
			asm.Mov.Reg(asm.R1, asm.R8), asm.And.Imm(asm.R1, flagFeedsBlock), asm.Mov.Imm(asm.R2, int32(RefusedFeed)),
			asm.JNE.Imm(asm.R1, 0, "refuse"),
			asm.Mov.Reg(asm.R1, asm.R8), asm.And.Imm(asm.R1, flagClosed), asm.Mov.Imm(asm.R2, int32(RefusedFeed)), asm.JNE.Imm(asm.R1, 0, "refuse"),
			asm.Mov.Imm(asm.R2, int32(SeenFeed)), asm.Ja.Label("watch"),
		},
	)
}

// begun notes a datagram that the container sent of itself, so that what comes back does not make it an answer.
func begun(m handles) asm.Instructions {
	return join(
		label("begun", asm.JNE.Imm(asm.R9, protoUDP, "pass")),
		asm.Instructions{load(asm.R1, asm.R7, stateID, asm.DWord), asm.StoreMem(asm.RFP, atValue, asm.R1, asm.DWord)},
		lookup(m.peers, atValue), asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, "pass"), asm.Mov.Reg(asm.R8, asm.R0), // R8: its correspondents
		},
		lookupInner(atPeer), asm.Instructions{ // an update takes an entry first, and looks then: six times as long
			asm.JNE.Imm(asm.R0, 0, "pass"),
			asm.Mov.Reg(asm.R1, asm.R8), asm.Mov.Imm(asm.R2, 0), asm.StoreMem(asm.RFP, atValue, asm.R2, asm.DWord),
		},
		frame(asm.R2, atPeer), frame(asm.R3, atValue),
		asm.Instructions{asm.Mov.Imm(asm.R4, onlyNew), asm.FnMapUpdateElem.Call(), asm.Ja.Label("pass")},
	)
}

// note reports the packet, unless the same was reported lately or too much was, and returns what is at atAnswer.
func note(m handles) asm.Instructions {
	mix := asm.Instructions{asm.LoadImm(asm.R2, 0x61c88647, asm.DWord), load(asm.R1, asm.RFP, atEvent+eventPort, asm.Word)}
	for i := int16(0); i < 24; i += 8 {
		mix = append(mix, load(asm.R3, asm.RFP, atEvent+i, asm.DWord), asm.Xor.Reg(asm.R1, asm.R3), asm.Mul.Reg(asm.R1, asm.R2),
			asm.Mov.Reg(asm.R3, asm.R1), asm.RSh.Imm(asm.R3, 29), asm.Xor.Reg(asm.R1, asm.R3))
	}
	var same, keep asm.Instructions
	for _, i := range []int16{eventID, eventAddr, eventAddr + 8, eventPort} {
		same = append(same, load(asm.R1, asm.RFP, atEvent+i, asm.DWord), load(asm.R2, asm.R9, i, asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, "other"))
		keep = append(keep, load(asm.R1, asm.RFP, atEvent+i, asm.DWord), asm.StoreMem(asm.R9, i, asm.R1, asm.DWord))
	}
	return join(
		label("note", load(asm.R1, asm.R7, stateID, asm.DWord)),
		asm.Instructions{asm.StoreMem(asm.RFP, atEvent+eventID, asm.R1, asm.DWord)},
		copyWords(atEvent+eventAddr, atPeer),
		asm.Instructions{
			load(asm.R1, asm.RFP, atPeer+16, asm.Half), asm.StoreMem(asm.RFP, atEvent+eventPort, asm.R1, asm.Half),
			asm.StoreMem(asm.RFP, atEvent+eventProto, asm.R9, asm.Byte),
			asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, atEvent+eventLocal, asm.R1, asm.Word), asm.StoreMem(asm.RFP, atEvent+eventPackets, asm.R1, asm.DWord),
			asm.FnKtimeGetNs.Call(), asm.Mov.Reg(asm.R8, asm.R0), // R8: now
		},
		mix, asm.Instructions{asm.And.Imm(asm.R1, seenSlots-1), asm.StoreMem(asm.RFP, atIndex, asm.R1, asm.Word)},
		lookup(m.seen, atIndex), asm.Instructions{asm.JEq.Imm(asm.R0, 0, "done"), asm.Mov.Reg(asm.R9, asm.R0)}, // R9: the slot
		same, asm.Instructions{
			asm.Mov.Imm(asm.R1, 1), addAt(asm.R9, eventPackets, asm.R1),
			load(asm.R1, asm.R9, seenTime, asm.DWord), asm.Mov.Reg(asm.R2, asm.R8), asm.Sub.Reg(asm.R2, asm.R1),
			asm.LoadImm(asm.R1, repeatAfter, asm.DWord), asm.JLE.Reg(asm.R2, asm.R1, "done"),
			load(asm.R1, asm.R9, eventPackets, asm.DWord), asm.StoreMem(asm.RFP, atEvent+eventPackets, asm.R1, asm.DWord),
		},
		// Is there room in this second?
		label("other", load(asm.R1, asm.R7, stateWindow, asm.DWord)),
		asm.Instructions{
			asm.Mov.Reg(asm.R2, asm.R8), asm.Sub.Reg(asm.R2, asm.R1), asm.LoadImm(asm.R1, 1e9, asm.DWord), asm.JLE.Reg(asm.R2, asm.R1, "sameSecond"),
			asm.StoreMem(asm.R7, stateWindow, asm.R8, asm.DWord), asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.R7, stateEvents, asm.R1, asm.Word),
		},
		label("sameSecond", load(asm.R1, asm.R7, stateEvents, asm.Word)),
		asm.Instructions{
			asm.JGE.Imm(asm.R1, eventsPerSecond, "tooMany"),
			asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R7, stateEvents, asm.R1, asm.Word),
		},
		keep, asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.R9, eventPackets, asm.R1, asm.DWord), asm.StoreMem(asm.R9, seenTime, asm.R8, asm.DWord),
		},
		output(m, "tooMany"), asm.Instructions{asm.Ja.Label("done")},
		label("tooMany", load(asm.R1, asm.R7, stateLost, asm.Word)),
		asm.Instructions{asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R7, stateLost, asm.R1, asm.Word)},
		label("done", load(asm.R0, asm.RFP, atAnswer, asm.DWord)), asm.Instructions{asm.Return()},
	)
}

// output hands the event on the stack over; without a reader, or room, it goes to other.
func output(m handles, other string) asm.Instructions {
	return join(lookup(m.rings, atEvent+eventID), asm.Instructions{asm.JEq.Imm(asm.R0, 0, other), asm.Mov.Reg(asm.R1, asm.R0)}, frame(asm.R2, atEvent),
		asm.Instructions{asm.Mov.Imm(asm.R3, eventSize), asm.Mov.Imm(asm.R4, forceWakeup), asm.FnRingbufOutput.Call(), asm.JNE.Imm(asm.R0, 0, other)})
}

// ingress is the program for what a container receives.
func ingress(m handles) asm.Instructions {
	return join(begin(m),
		asm.Instructions{
			asm.Mov.Reg(asm.R1, asm.R8), asm.And.Imm(asm.R1, flagOff), asm.JNE.Imm(asm.R1, 0, "drop"),
			asm.Mov.Reg(asm.R1, asm.R8), asm.And.Imm(asm.R1, replies), asm.JEq.Imm(asm.R1, 0, "pass"),
		},
		parse(inward),
		asm.Instructions{
			asm.JNE.Imm(asm.R9, protoUDP, "pass"),
			load(asm.R1, asm.R7, stateID, asm.DWord), asm.StoreMem(asm.RFP, atValue, asm.R1, asm.DWord),
		},
		lookup(m.peers, atValue), asm.Instructions{asm.JEq.Imm(asm.R0, 0, "pass"), asm.Mov.Reg(asm.R8, asm.R0)}, // R8: its correspondents
		asm.Instructions{asm.FnKtimeGetNs.Call(), asm.StoreMem(asm.RFP, atValue, asm.R0, asm.DWord), asm.Mov.Reg(asm.R1, asm.R8)},
		frame(asm.R2, atPeer), asm.Instructions{
			asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "new"),
			load(asm.R1, asm.R0, 0, asm.DWord), asm.JEq.Imm(asm.R1, 0, "pass"), // the container began it
			load(asm.R1, asm.RFP, atValue, asm.DWord), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord), asm.Ja.Label("pass"),
		},
		label("new", asm.Mov.Reg(asm.R1, asm.R8)), frame(asm.R2, atPeer), frame(asm.R3, atValue),
		asm.Instructions{asm.Mov.Imm(asm.R4, onlyNew), asm.FnMapUpdateElem.Call(), asm.Ja.Label("pass")},
		label("odd", asm.Mov.Imm(asm.R0, pass)), asm.Instructions{asm.Return()},
		label("drop", asm.Mov.Imm(asm.R0, 0)), asm.Instructions{asm.Return()},
		label("pass", asm.Mov.Imm(asm.R0, pass)), asm.Instructions{asm.Return()},
	)
}

// addAt adds src to the 64 bits at an offset from dst, atomically.
func addAt(dst asm.Register, offset int16, src asm.Register) asm.Instruction {
	add := asm.StoreXAdd(dst, src, asm.DWord)
	add.Offset = offset
	return add
}

// sockops is the program that marks accepted connections and reports the first of a container.
func sockops(m handles) asm.Instructions {
	var zero, ipv6 asm.Instructions
	for i := int16(0); i < eventSize; i += 8 {
		zero = append(zero, asm.StoreMem(asm.RFP, atEvent+i, asm.R1, asm.DWord))
	}
	for i := int16(0); i < 16; i += 4 {
		ipv6 = append(ipv6, load(asm.R1, asm.R6, opsRemote6+i, asm.Word), asm.StoreMem(asm.RFP, atEvent+eventAddr+i, asm.R1, asm.Word))
	}
	return join(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			load(asm.R2, asm.R6, opsOp, asm.Word), asm.JNE.Imm(asm.R2, opPassive, "pass"),
			load(asm.R2, asm.R6, opsSock, asm.DWord), asm.JEq.Imm(asm.R2, 0, "first"),
			asm.LoadMapPtr(asm.R1, m.accepted), asm.Mov.Imm(asm.R3, 0), asm.Mov.Imm(asm.R4, onlyNew), asm.FnSkStorageGet.Call(),
		},
		label("first", asm.LoadMapPtr(asm.R1, m.state)),
		asm.Instructions{
			asm.Mov.Imm(asm.R2, 0), asm.FnGetLocalStorage.Call(), asm.Mov.Reg(asm.R7, asm.R0),
			load(asm.R1, asm.R7, stateAccepted, asm.Word), asm.JNE.Imm(asm.R1, 0, "pass"),
			asm.Mov.Imm(asm.R1, 1), asm.StoreMem(asm.R7, stateAccepted, asm.R1, asm.Word),
			asm.Mov.Imm(asm.R1, 0),
		},
		zero, asm.Instructions{
			load(asm.R1, asm.R7, stateID, asm.DWord), asm.StoreMem(asm.RFP, atEvent+eventID, asm.R1, asm.DWord),
			asm.StoreImm(asm.RFP, atEvent+eventKind, int64(Accepted), asm.Byte),
			asm.StoreImm(asm.RFP, atEvent+eventProto, protoTCP, asm.Byte),
			load(asm.R1, asm.R6, opsLocal, asm.Word), asm.StoreMem(asm.RFP, atEvent+eventLocal, asm.R1, asm.Word),
			load(asm.R1, asm.R6, opsFamily, asm.Word), asm.JNE.Imm(asm.R1, familyIPv4, "ipv6"),
			asm.LoadImm(asm.R1, network32(0xffff), asm.DWord), asm.StoreMem(asm.RFP, atEvent+eventAddr+8, asm.R1, asm.Word),
			load(asm.R1, asm.R6, opsRemote4, asm.Word), asm.StoreMem(asm.RFP, atEvent+eventAddr+12, asm.R1, asm.Word),
			asm.Ja.Label("report"),
			asm.Mov.Imm(asm.R1, 0).WithSymbol("ipv6"),
		},
		ipv6, label("report", asm.Mov.Imm(asm.R1, 0)), output(m, "pass"),
		label("pass", asm.Mov.Imm(asm.R0, pass)), asm.Instructions{asm.Return()},
	)
}
