// Package names is what an interceptor knows of the domain name system: which name a query asks for, which addresses an answer
// gives it (RFC 1035), and for which names an address was the answer lately (Map).
//
// It reads what hostile containers and servers send: every message is looked at once, to a bound, and none is written anew: what
// passes passes as it came. Nothing here opens a socket. All functions may be called from any goroutine.
package names

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/dns/dnsmessage"
)

// Sizes of messages, in bytes.
const (
	header     = 12
	MaxMessage = 1<<16 - 1
	// maxHost is how long a name may be as rules see it, where bytes that are not printed take four.
	maxHost = 255
)

// ErrMalformed says that a message is no query that can be understood.
var ErrMalformed = errors.New("not a query with one question")

// Query is what a client asks.
type Query struct {
	ID    uint16
	Host  string // the name, in lower case, without the root's dot; "" is the root
	Type  dnsmessage.Type
	Write bool // an update or a notification, which changes something where it goes

	question int // where the question ends
}

// ReadQuery reads a query. The error is ErrMalformed.
func ReadQuery(b []byte) (Query, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response || binary.BigEndian.Uint16(b[4:]) != 1 {
		return Query{}, ErrMalformed
	}
	q := Query{ID: h.ID}
	switch h.OpCode {
	case opQuery:
	case opNotify, opUpdate:
		q.Write = true
	default:
		return Query{}, ErrMalformed
	}
	asked, err := p.Question()
	if err != nil {
		return Query{}, ErrMalformed
	}
	host, ok := Host(asked.Name)
	end := questionEnd(b)
	if !ok || end == 0 {
		return Query{}, ErrMalformed
	}
	q.Host, q.Type, q.question = host, asked.Type, end
	return q, nil
}

// Kinds of queries (RFC 1035, 1996, 2136).
const (
	opQuery  = 0
	opNotify = 4
	opUpdate = 5
)

// questionEnd is where the first question ends; 0: its name is compressed, which it cannot be, since nothing comes before it.
func questionEnd(b []byte) int {
	for at := header; at < len(b); {
		n := int(b[at])
		switch {
		case n == 0 && at+5 <= len(b):
			return at + 5
		case n == 0 || n > 63:
			return 0
		}
		at += 1 + n
	}
	return 0
}

// Host is a name as rules see it: in lower case, without the root's dot. A byte that is not printed is written as \ddd (RFC 4343).
func Host(n dnsmessage.Name) (host string, ok bool) {
	b := n.Data[:n.Length]
	if len(b) == 0 || b[len(b)-1] != '.' {
		return "", false
	}
	out := make([]byte, 0, maxHost)
	for _, c := range b[:len(b)-1] {
		switch {
		case 'A' <= c && c <= 'Z':
			out = append(out, c+'a'-'A')
		case c <= ' ' || c >= 0x7f || c == '\\':
			out = fmt.Appendf(out, `\%03d`, c)
		default:
			out = append(out, c)
		}
	}
	return string(out), len(out) <= maxHost
}

// First is how many bytes of a TCP connection it takes to tell whether it begins with a query.
const First = 2 + header

// Begins tells whether the first bytes of a TCP connection are those of a query, its length before it (RFC 7766).
func Begins(b []byte) bool {
	if len(b) < First {
		return false
	}
	n, h := int(binary.BigEndian.Uint16(b)), b[2:]
	op := h[2] >> 3 & 15
	answers := binary.BigEndian.Uint16(h[6:])
	return n >= header+5 && h[2]&0x80 == 0 && binary.BigEndian.Uint16(h[4:]) == 1 && (op == opQuery && answers == 0 || op == opNotify || op == opUpdate)
}

// Code is why a query is not answered (RFC 1035, RCODE).
type Code byte

// The codes.
const (
	Malformed Code = 1 // FORMERR
	Failed    Code = 2 // SERVFAIL
	Refused   Code = 5 // REFUSED
)

// Refuse makes the answer to a query that says no more than a code. It has the query's question as it was written. One that is no query
// at all has none: nil.
func Refuse(b []byte, code Code) []byte {
	if len(b) < header || b[2]&0x80 != 0 {
		return nil
	}
	end := header
	if q, err := ReadQuery(b); err == nil {
		end = q.question
	}
	out := make([]byte, end, end+len(option))
	copy(out, b)
	out[2] = 0x80 | b[2]&0x79 // the answer to the same kind of query, recursion as desired
	out[3] = 0x80 | byte(code)
	clear(out[4:header])
	if end > header {
		out[5] = 1
		if hasOption(b) {
			out[11] = 1
			out = append(out, option...)
		}
	}
	return out
}

// option is that of EDNS (RFC 6891) with nothing in it, which answers to who has one must have: at most 1232 bytes by UDP.
var option = []byte{0, 0, 41, 1232 >> 8, 1232 & 0xff, 0, 0, 0, 0, 0, 0}

func hasOption(b []byte) bool {
	var p dnsmessage.Parser
	if _, err := p.Start(b); err != nil || p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return false
	}
	for range maxRecords {
		h, err := p.AdditionalHeader()
		if err != nil {
			return false
		}
		if h.Type == dnsmessage.TypeOPT {
			return true
		}
		if p.SkipAdditional() != nil {
			return false
		}
	}
	return false
}
