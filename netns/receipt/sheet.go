// Package receipt is how a gateway's counts of connections become receipts that it cannot take back, and how a node compares them
// with what its interceptors count (docs/decisions/0075).
//
// A Sheet is the signed form: receipts of many connections, in answer to one question. A Ledger holds, for one network namespace,
// accounts and receipts against each other.
//
// Not for: reading the kernel's counts (packages gateway and intercept) and what follows from a fault. A Ledger is used by one
// goroutine at a time; nothing here reads a clock.
package receipt

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// magic begins each sheet. It has the version, and keeps signatures of sheets from being those of anything else.
const magic = "forefend receipts 1\n"

// Bounds of a sheet.
const (
	MaxReceipts = 512
	MaxClient   = 253 // bytes
	MaxSheet    = headSize + MaxClient + MaxReceipts*size
)

// Nonce is the number that a node made for one question.
type Nonce [16]byte

// Sheet answers one question: the receipts of one node's connections that changed since a serial.
type Sheet struct {
	Client   string    // the node's name
	Nonce    Nonce     // the question's
	At       time.Time // by the gateway's clock: when the counts were read
	Since    time.Time // by the gateway's clock: nothing was missed from then on
	After    uint64    // the question's serial
	Last     uint64    // the serial to ask with next
	More     bool      // there are more after Last
	Receipts []Receipt // by serial
}

// Receipt is what a gateway counted of one connection of a peer.
type Receipt struct {
	Serial   uint64         // of this state of it; the next one has a greater one
	Lease    [16]byte       // the peer's
	Protocol uint8          // of IP
	Peer     netip.AddrPort // who opened it: an address of the lease
	Server   netip.AddrPort
	Began    time.Time // by the gateway's clock
	Up       Count     // to the server
	Down     Count
	Final    bool // the gateway has forgotten the connection
}

// Count is of whole IP packets.
type Count struct {
	Bytes, Packets uint64
}

// Sizes of the form, in bytes. Numbers are big-endian, addresses those of IPv6 (mapped ones of IPv4), times nanoseconds since 1970.
const (
	headSize = len(magic) + 1 + 16 + 8 + 8 + 8 + 8 + 1 + 2 // and the client's name
	size     = 8 + 16 + 1 + 1 + 18 + 18 + 8 + 4*8
)

const (
	flagFinal = 1 << iota
	flagSix   // the addresses are IPv6's
)

// Append appends the sheet's canonical form.
func (s *Sheet) Append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, byte(len(s.Client)))
	b = append(b, s.Client...)
	b = append(b, s.Nonce[:]...)
	for _, n := range []uint64{uint64(s.At.UnixNano()), uint64(s.Since.UnixNano()), s.After, s.Last} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, bit(s.More, 1))
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Receipts)))
	for i := range s.Receipts {
		b = s.Receipts[i].append(b)
	}
	return b
}

func bit(set bool, b byte) byte {
	if set {
		return b
	}
	return 0
}

func (r *Receipt) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Serial)
	b = append(b, r.Lease[:]...)
	b = append(b, r.Protocol, bit(r.Final, flagFinal)|bit(r.Peer.Addr().Is6(), flagSix))
	for _, a := range []netip.AddrPort{r.Peer, r.Server} {
		long := a.Addr().As16()
		b = append(b, long[:]...)
		b = binary.BigEndian.AppendUint16(b, a.Port())
	}
	b = binary.BigEndian.AppendUint64(b, uint64(r.Began.UnixNano()))
	for _, n := range []uint64{r.Up.Bytes, r.Up.Packets, r.Down.Bytes, r.Down.Packets} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// errForm says that bytes are no sheet. What is read has one form only.
var errForm = errors.New("not a sheet of receipts of version 1")

// Parse reads a sheet. Whatever it accepts, Append writes again, byte for byte.
func Parse(b []byte) (*Sheet, error) {
	if len(b) < headSize || string(b[:len(magic)]) != magic {
		return nil, errForm
	}
	b = b[len(magic):]
	n := int(b[0])
	if n == 0 || n > MaxClient || len(b) < headSize-len(magic)+n {
		return nil, errForm
	}
	s := &Sheet{Client: string(b[1 : 1+n])}
	b = b[1+n:]
	b = b[copy(s.Nonce[:], b):]
	s.At, s.Since, s.After, s.Last = moment(b), moment(b[8:]), binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	s.More = b[32] == 1
	count := int(binary.BigEndian.Uint16(b[33:]))
	if b[32] > 1 || count > MaxReceipts || len(b[35:]) != count*size {
		return nil, errForm
	}
	last := s.After
	for b = b[35:]; len(b) > 0; b = b[size:] {
		r, ok := parse(b[:size])
		if !ok || r.Serial <= last || r.Serial > s.Last {
			return nil, errForm
		}
		last = r.Serial
		s.Receipts = append(s.Receipts, r)
	}
	if s.Last < s.After {
		return nil, errForm
	}
	return s, nil
}

func moment(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b))) }

func parse(b []byte) (r Receipt, ok bool) {
	r.Serial = binary.BigEndian.Uint64(b)
	copy(r.Lease[:], b[8:])
	r.Protocol, r.Final = b[24], b[25]&flagFinal != 0
	six := b[25]&flagSix != 0
	if b[25]&^(flagFinal|flagSix) != 0 {
		return r, false
	}
	for i, a := range []*netip.AddrPort{&r.Peer, &r.Server} {
		at := b[26+18*i:]
		address := netip.AddrFrom16([16]byte(at[:16]))
		if address.Is4In6() == six {
			return r, false
		}
		*a = netip.AddrPortFrom(address.Unmap(), binary.BigEndian.Uint16(at[16:]))
	}
	r.Began = moment(b[62:])
	for i, n := range []*uint64{&r.Up.Bytes, &r.Up.Packets, &r.Down.Bytes, &r.Down.Packets} {
		*n = binary.BigEndian.Uint64(b[70+8*i:])
	}
	return r, true
}

// Signed is a sheet as it travels.
type Signed struct {
	Version   int    `json:"version"`
	Sheet     []byte `json:"sheet"`     // canonical
	Signature []byte `json:"signature"` // Ed25519, of Sheet
	Key       []byte `json:"key"`       // whose; a node believes the first one that it hears, or the one of its configuration
}

// Sign makes a sheet that nobody can take back.
func (s *Sheet) Sign(key ed25519.PrivateKey) Signed {
	body := s.Append(nil)
	return Signed{Version: 1, Sheet: body, Signature: ed25519.Sign(key, body), Key: key.Public().(ed25519.PublicKey)}
}

// Question is what a node asks for.
type Question struct {
	Nonce Nonce
	After uint64
}

// ErrForged is wrapped by errors about what a gateway answers that is no receipt.
var ErrForged = errors.New("forged receipts")

// Open checks that a signed sheet is key's answer to a question. Errors wrap ErrForged.
func (g *Signed) Open(key ed25519.PublicKey, q Question) (*Sheet, error) {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, g.Sheet, g.Signature) {
		return nil, fmt.Errorf("the signature is not that of the gateway's receipts: %w", ErrForged)
	}
	s, err := Parse(g.Sheet)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", err, ErrForged)
	case s.Nonce != q.Nonce:
		return nil, fmt.Errorf("they answer another question, an older one for instance: %w", ErrForged)
	case s.After != q.After:
		return nil, fmt.Errorf("they begin after serial %d, not %d: %w", s.After, q.After, ErrForged)
	}
	return s, nil
}
