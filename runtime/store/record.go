package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
)

// recordVersion is the version of the envelope. Raise it when a reader of the old
// one would misread a record, and keep a golden file of the old one.
const recordVersion = 1

// MaxRecord bounds the body of one record.
const MaxRecord = 4 << 20

// An envelope is: 'F' 'R' version flags crc32c(4 bytes, little endian) body.
// The checksum covers version, flags, the record's subject and the body as stored.
const envelopeSize = 8

const flagS2 = 1 << 0 // the body is compressed with S2

// compressFrom is the size from which compression is worth its time; a run is
// 1 to 6 KiB of JSON and shrinks to a third.
const compressFrom = 512

// ErrDamaged is in the chain of every error about a record or a snapshot that
// is not what was written.
var ErrDamaged = errors.New("damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts body into an envelope. The subject is under the checksum so that a
// record cannot turn up as another's.
func seal(subject string, body []byte) ([]byte, error) {
	if len(body) > MaxRecord {
		return nil, fmt.Errorf("a record of %d bytes: the most is %d", len(body), MaxRecord)
	}
	var flags byte
	if len(body) >= compressFrom {
		if small := s2.Encode(nil, body); len(small) < len(body) {
			body, flags = small, flagS2
		}
	}
	out := make([]byte, envelopeSize, envelopeSize+len(body))
	copy(out, []byte{'F', 'R', recordVersion, flags})
	out = append(out, body...)
	binary.LittleEndian.PutUint32(out[4:], checksum(subject, out))
	return out, nil
}

// unseal checks an envelope and returns its body. The body may share memory with b.
func unseal(subject string, b []byte) ([]byte, error) {
	switch {
	case len(b) < envelopeSize || b[0] != 'F' || b[1] != 'R':
		return nil, fmt.Errorf("%w: not a Forefend record", ErrDamaged)
	case b[2] != recordVersion:
		return nil, fmt.Errorf("%w: version %d of the record format is unknown here", ErrDamaged, b[2])
	case binary.LittleEndian.Uint32(b[4:]) != checksum(subject, b):
		return nil, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	body := b[envelopeSize:]
	if b[3]&flagS2 == 0 {
		return body, nil
	}
	n, err := s2.DecodedLen(body)
	if err != nil || n > MaxRecord {
		return nil, fmt.Errorf("%w: compressed body of %d bytes (%v)", ErrDamaged, n, err)
	}
	body, err = s2.Decode(nil, body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return body, nil
}

// checksum covers everything but the checksum's own four bytes.
func checksum(subject string, envelope []byte) uint32 {
	sum := crc32.Update(0, castagnoli, []byte(subject))
	sum = crc32.Update(sum, castagnoli, envelope[2:4])
	return crc32.Update(sum, castagnoli, envelope[envelopeSize:])
}
