package channel

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Version is the version of the record format. An end refuses every other.
const Version = 1

// The sizes of a record, in bytes.
const (
	KeySize    = 32
	MaxPayload = 16 << 10
	headerSize = 12 // version, reserved, length (2), sequence number (8)
	macSize    = 16 // of HMAC-SHA-256's 32: RFC 2104 section 5 asks for no less than half
	maxRecord  = headerSize + MaxPayload + macSize
)

// End is one of the two ends of a channel.
type End string

// The ends. Each writes under a key of its own, so that nothing can be reflected.
const (
	Host  End = "host"
	Agent End = "agent"
)

func (e End) peer() End {
	if e == Host {
		return Agent
	}
	return Host
}

// sealer makes and checks the MACs of one direction. It is not safe for use by several goroutines.
type sealer struct {
	mac hash.Hash
	sum [sha256.Size]byte
}

// newSealer derives the key of what the end writes from the channel's key.
func newSealer(key []byte, writer End) *sealer {
	derive := hmac.New(sha256.New, key)
	derive.Write([]byte("forefend agent channel, written by " + string(writer)))
	return &sealer{mac: hmac.New(sha256.New, derive.Sum(nil))}
}

// seal appends the record with this sequence number to dst. The payload has at most MaxPayload bytes.
func (s *sealer) seal(dst []byte, seq uint64, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, Version, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(payload)))
	dst = binary.BigEndian.AppendUint64(dst, seq)
	dst = append(dst, payload...)
	return append(dst, s.tag(dst[start:])...)
}

func (s *sealer) tag(record []byte) []byte {
	s.mac.Reset()
	s.mac.Write(record)
	return s.mac.Sum(s.sum[:0])[:macSize]
}

// size reads how long the record with this header is, or what is wrong with the header.
func size(header []byte) (int, Kind) {
	length := int(binary.BigEndian.Uint16(header[2:]))
	switch {
	case header[0] != Version || header[1] != 0:
		return 0, WrongVersion
	case length > MaxPayload:
		return 0, Oversized
	}
	return headerSize + length + macSize, ""
}

// open returns the payload of a complete record, which aliases it, or what is wrong with the record.
func (s *sealer) open(record []byte, expected uint64) ([]byte, Kind) {
	body := record[:len(record)-macSize]
	if !hmac.Equal(s.tag(body), record[len(body):]) {
		return nil, Tampered
	}
	switch seq := binary.BigEndian.Uint64(body[4:]); {
	case seq < expected:
		return nil, Replayed
	case seq > expected:
		return nil, Gap
	}
	return body[headerSize:], ""
}
