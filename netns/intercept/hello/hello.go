// Package hello reads the ClientHello with which a TLS connection begins (RFC 8446, 4.1.2), as much of it as is said in the
// clear: the server's name and the protocols the client would speak. It decrypts nothing and answers nothing.
package hello

import (
	"encoding/binary"
	"errors"
)

// MaxSize bounds what is read of a connection for its ClientHello: the handshake message, and the headers of the records
// it is split over. Post-quantum key shares make it some 2 KiB; no client needs more than a few.
const MaxSize = 64 << 10

// Hello is what a ClientHello says.
type Hello struct {
	// Name is the server's, in lower case, without a root's dot; empty: the client names none.
	Name string
	// Protocols are those of ALPN, in the client's order.
	Protocols []string
	// Encrypted tells that the client hides another ClientHello in this one (ECH): Name is that of a provider.
	Encrypted bool
}

// ErrShort says that the ClientHello is not complete yet, ErrMalformed that there is none.
var (
	ErrShort     = errors.New("the ClientHello is not complete")
	ErrMalformed = errors.New("malformed ClientHello")
)

const (
	recordHeader = 5
	handshake    = 22 // type of a record
	maxRecord    = 1 << 14
	clientHello  = 1 // type of a handshake message
	maxProtocols = 32
)

// Enough is how many bytes of a connection it takes to tell whether it begins with a ClientHello.
const Enough = recordHeader + 1

// Begins tells whether these first bytes of a connection can be a TLS record with a ClientHello; with fewer than Enough, whether
// they still can become one.
func Begins(b []byte) bool {
	if len(b) == 0 || !isHandshake(b) {
		return false
	}
	if len(b) < Enough {
		return true
	}
	n := binary.BigEndian.Uint16(b[3:])
	return n == 0 || n <= maxRecord && b[recordHeader] == clientHello
}

// isHandshake tells whether a record is one of a handshake, as far as it is there. Its version says nothing (RFC 8446, 5.1): OpenSSL's servers
// look at the first byte of it, Go's take all that are below 0x1000.
func isHandshake(b []byte) bool { return b[0] == handshake && (len(b) < 2 || b[1] < 0x10) }

// Parse reads the ClientHello at the beginning of a connection. It returns ErrShort or ErrMalformed.
func Parse(b []byte) (Hello, error) {
	body, err := message(b)
	if err != nil {
		return Hello{}, err
	}
	h, ok := parse(body)
	if !ok {
		return Hello{}, ErrMalformed
	}
	return h, nil
}

// message puts the handshake message together from the records it is split over, without its own header.
func message(b []byte) ([]byte, error) {
	var joined []byte
	size := -1
	for used := 0; ; {
		if used >= MaxSize {
			return nil, ErrMalformed
		}
		if used < len(b) && !isHandshake(b[used:]) {
			return nil, ErrMalformed
		}
		if len(b)-used < recordHeader {
			return nil, ErrShort
		}
		n := int(binary.BigEndian.Uint16(b[used+3:]))
		if n == 0 || n > maxRecord {
			return nil, ErrMalformed
		}
		data := b[used+recordHeader:]
		whole := len(data) >= n
		data = data[:min(n, len(data))]
		switch {
		case joined == nil && whole: // nearly always all of it is in one record
			joined = data[:len(data):len(data)]
		default:
			joined = append(joined, data...)
		}
		if size < 0 && len(joined) >= 4 {
			size = int(binary.BigEndian.Uint32(joined) & 0xffffff)
			if joined[0] != clientHello || size > MaxSize {
				return nil, ErrMalformed
			}
		}
		if size >= 0 && len(joined) >= 4+size {
			return joined[4 : 4+size], nil
		}
		if !whole {
			return nil, ErrShort
		}
		used += recordHeader + n
	}
}

// cursor takes fields from the front; after one that was too short it is done for good.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

// vector takes a field that has its length in front, in so many bytes.
func (c *cursor) vector(lengthBytes int) cursor {
	n := 0
	for _, b := range c.take(lengthBytes) {
		n = n<<8 | int(b)
	}
	b := c.take(n)
	return cursor{b, c.bad}
}

func (c *cursor) number() int {
	b := c.take(2)
	if b == nil {
		return -1
	}
	return int(binary.BigEndian.Uint16(b))
}

// Extensions that say something to us.
const (
	extensionServerName = 0
	extensionALPN       = 16
	extensionECH        = 0xfe0d
)

func parse(b []byte) (h Hello, ok bool) {
	c := cursor{b: b}
	c.take(2 + 32) // version and random
	c.vector(1)    // session
	c.vector(2)    // cipher suites
	c.vector(1)    // compression
	if c.bad {
		return h, false
	}
	if len(c.b) == 0 {
		return h, true // TLS 1.2 without extensions
	}
	extensions := c.vector(2)
	if c.bad || len(c.b) > 0 {
		return h, false
	}
	var named, spoken bool
	for len(extensions.b) > 0 {
		kind := extensions.number()
		body := extensions.vector(2)
		if extensions.bad {
			return h, false
		}
		switch {
		case kind == extensionServerName && !named:
			named = true
			if h.Name, ok = serverName(body); !ok {
				return h, false
			}
		case kind == extensionALPN && !spoken:
			spoken = true
			if h.Protocols, ok = protocols(body); !ok {
				return h, false
			}
		case kind == extensionECH:
			h.Encrypted = true
		case kind == extensionServerName, kind == extensionALPN:
			return h, false // twice: a server might take the other one
		}
	}
	return h, true
}

func serverName(c cursor) (string, bool) {
	list := c.vector(2)
	kind, name := list.take(1), list.vector(2)
	// One name, of a host: there is no other kind, and a list of two would have two meanings (RFC 6066, 3).
	if c.bad || list.bad || len(c.b) > 0 || len(list.b) > 0 || kind[0] != 0 || len(name.b) == 0 || len(name.b) > 255 {
		return "", false
	}
	lower := make([]byte, len(name.b))
	for i, b := range name.b {
		switch {
		case 'A' <= b && b <= 'Z':
			b += 'a' - 'A'
		case b <= ' ' || b >= 0x7f:
			return "", false
		}
		lower[i] = b
	}
	if n := len(lower); n > 1 && lower[n-1] == '.' {
		lower = lower[:n-1]
	}
	return string(lower), true
}

func protocols(c cursor) (names []string, ok bool) {
	list := c.vector(2)
	if c.bad || len(c.b) > 0 {
		return nil, false
	}
	for len(list.b) > 0 {
		name := list.vector(1)
		if list.bad || len(name.b) == 0 || len(names) == maxProtocols {
			return nil, false
		}
		names = append(names, string(name.b))
	}
	return names, true
}
