package calls

import (
	"encoding/binary"
	"errors"
)

// ttrpc's message header: length, stream id, type, flags.
const (
	headerSize   = 10
	typeRequest  = 1
	typeResponse = 2

	// MaxMessage bounds a message in either direction.
	MaxMessage = 1 << 20
)

// request is ttrpc.Request without its metadata.
type request struct {
	service, method string
	body            []byte // of the BytesValue
	timeout         int64  // nanoseconds; 0: none
}

var errMalformed = errors.New("malformed protobuf message")

// The wire types of protobuf that occur, and those that are skipped.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// fields calls yield for each field of a protobuf message: number, and its value as bytes or as a number.
func fields(b []byte, yield func(number int, bytes []byte, value uint64) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return errMalformed
		}
		b = b[n:]
		var bytes []byte
		var value uint64
		switch tag & 7 {
		case wireVarint:
			if value, n = binary.Uvarint(b); n <= 0 {
				return errMalformed
			}
		case wireBytes:
			length, m := binary.Uvarint(b)
			if m <= 0 || length > uint64(len(b)-m) {
				return errMalformed
			}
			bytes, n = b[m:m+int(length)], m+int(length)
		case wire64:
			n = 8
		case wire32:
			n = 4
		default:
			return errMalformed
		}
		if n > len(b) {
			return errMalformed
		}
		b = b[n:]
		if err := yield(int(tag>>3), bytes, value); err != nil {
			return err
		}
	}
	return nil
}

func parseRequest(b []byte) (request, error) {
	var r request
	err := fields(b, func(number int, bytes []byte, value uint64) (err error) {
		switch number {
		case 1:
			r.service = string(bytes)
		case 2:
			r.method = string(bytes)
		case 3:
			r.body, err = parseBytesValue(bytes)
		case 4:
			r.timeout = int64(value)
		}
		return err
	})
	return r, err
}

func parseBytesValue(b []byte) (value []byte, err error) {
	err = fields(b, func(number int, bytes []byte, _ uint64) error {
		if number == 1 {
			value = bytes
		}
		return nil
	})
	return value, err
}

// appendBytes appends a field of bytes, or nothing where they are empty.
func appendBytes(dst []byte, number int, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(number)<<3|wireBytes)
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// response makes the whole message, header included, that answers a stream with a body or an error.
func response(stream uint32, body []byte, failure *Error) []byte {
	var message []byte
	if failure != nil {
		status := binary.AppendUvarint([]byte{1<<3 | wireVarint}, uint64(failure.Code))
		message = appendBytes(nil, 1, appendBytes(status, 2, []byte(failure.Message)))
	} else {
		message = appendBytes(nil, 2, appendBytes(nil, 1, body))
	}
	out := make([]byte, headerSize, headerSize+len(message))
	binary.BigEndian.PutUint32(out, uint32(len(message)))
	binary.BigEndian.PutUint32(out[4:], stream)
	out[8] = typeResponse
	return append(out, message...)
}
