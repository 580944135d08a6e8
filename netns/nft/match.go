package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The pieces that rules are made of. Each compares or computes in register 1, and ends the rule where it does not match.

func u16(v uint16) []byte { return binaryutil.BigEndian.PutUint16(v) }    // as packets have it
func u32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) } // as the kernel has it

func is(value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func isNot(value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: value}}
}

func meta(key expr.MetaKey, register uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register}}
}

func setMeta(key expr.MetaKey, register uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: register, SourceRegister: true}}
}

func immediate(value uint32) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: u32(value)}}
}

func family(f byte) []expr.Any {
	return append(meta(expr.MetaKeyNFPROTO, 1), is([]byte{f})...)
}

func protocol(p byte) []expr.Any {
	return append(meta(expr.MetaKeyL4PROTO, 1), is([]byte{p})...)
}

func payload(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

// lookup ends the rule where the set lacks what is in register 1. The value of a map goes to register to.
func lookup(s *nftables.Set, from, to uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: from, DestRegister: to, IsDestRegSet: s.IsMap, SetName: s.Name, SetID: s.ID}}
}

// of matches what a socket of a cgroup, or of one below it, sends. A socket is of the cgroup that it was made in.
func of(c Cgroup) []expr.Any {
	return append([]expr.Any{&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: c.Level, Register: 1}}, is(binaryutil.NativeEndian.PutUint64(c.ID))...)
}

// Directions of a connection.
const (
	original = 0
	reply    = 1
)

func direction(d byte) []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}}, is([]byte{d})...)
}

func state(bit uint32) []expr.Any {
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, masked(bit)}, isNot(u32(0))...)
}

// notTranslated matches connections whose destination is the one they were opened to.
func notTranslated() []expr.Any {
	const destination = 1 << 5 // IPS_DST_NAT
	return append([]expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, masked(destination)}, is(u32(0))...)
}

func masked(bits uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: u32(bits), Xor: u32(0)}
}

func redirectTo(port uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: u16(port)}, &expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1}}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func count(c Counter) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: string(c)}}
}
