package names

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bounds of what is read of an answer.
const (
	maxRecords   = 256
	maxAddresses = 32
	maxAliases   = 16
)

// Answer is what a server says of the name that was asked for.
type Answer struct {
	Addresses []netip.Addr
	TTL       time.Duration // the least of what led to them
	None      bool          // there is no such name
}

// Answers tells whether a message is the answer to a query: its number, and the question in it but for the case of letters. A
// server that failed may leave the question out.
func (q *Query) Answers(query, b []byte) bool {
	if len(b) < header || b[2]&0x80 == 0 || binary.BigEndian.Uint16(b) != binary.BigEndian.Uint16(query) {
		return false
	}
	if binary.BigEndian.Uint16(b[4:]) == 0 {
		return b[3]&0xf != 0
	}
	if len(b) < q.question {
		return false
	}
	name := q.question - 4 // type and class come after it
	for i := header; i < name; i++ {
		if lower(b[i]) != lower(query[i]) {
			return false
		}
	}
	return bytes.Equal(b[name:q.question], query[name:q.question])
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// ReadAnswer reads the addresses that an answer gives the name it is asked for, by its aliases, hints of services among them. What it says of other names does not
// count. An answer that cannot be read to its end, or has more records than anybody needs, says what was read.
func ReadAnswer(b []byte) (host string, a Answer) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response {
		return "", a
	}
	asked, err := p.Question()
	if err != nil || p.SkipAllQuestions() != nil {
		return "", a
	}
	host, ok := Host(asked.Name)
	if !ok {
		return "", a
	}
	if h.RCode != dnsmessage.RCodeSuccess {
		a.None = h.RCode == dnsmessage.RCodeNameError
		return host, a
	}
	a.Addresses, a.TTL = follow(asked.Name.String(), records(&p))
	return host, a
}

// record is one of an answer that matters: an address or an alias.
type record struct {
	owner, alias string // as they are written
	addr         netip.Addr
	ttl          uint32
}

func records(p *dnsmessage.Parser) (list []record) {
	for range maxRecords {
		h, err := p.AnswerHeader()
		if err != nil {
			break
		}
		r := record{owner: h.Name.String(), ttl: h.TTL}
		switch {
		case h.Class != dnsmessage.ClassINET:
			err = p.SkipAnswer()
		case h.Type == dnsmessage.TypeA:
			var a dnsmessage.AResource
			if a, err = p.AResource(); err == nil {
				r.addr = netip.AddrFrom4(a.A)
			}
		case h.Type == dnsmessage.TypeAAAA:
			var a dnsmessage.AAAAResource
			if a, err = p.AAAAResource(); err == nil {
				r.addr = netip.AddrFrom16(a.AAAA).Unmap()
			}
		case h.Type == dnsmessage.TypeCNAME:
			var c dnsmessage.CNAMEResource
			if c, err = p.CNAMEResource(); err == nil {
				r.alias = c.CNAME.String()
			}
		case h.Type == dnsmessage.TypeSVCB || h.Type == dnsmessage.TypeHTTPS:
			var hinted []netip.Addr
			hinted, err = hints(p, h.Type)
			for _, addr := range hinted {
				list = append(list, record{owner: r.owner, addr: addr, ttl: r.ttl})
			}
		default:
			err = p.SkipAnswer()
		}
		if err != nil {
			break
		}
		if r.addr.IsValid() || r.alias != "" {
			list = append(list, r)
		}
	}
	return list
}

// follow finds a name's addresses by its aliases.
func follow(name string, list []record) (addrs []netip.Addr, ttl time.Duration) {
	least := ^uint32(0)
	for range maxAliases {
		next := ""
		for _, r := range list {
			if !strings.EqualFold(r.owner, name) {
				continue
			}
			least = min(least, r.ttl)
			if r.alias != "" {
				next = r.alias
			} else if len(addrs) < maxAddresses {
				addrs = append(addrs, r.addr)
			}
		}
		if next == "" || addrs != nil {
			break
		}
		name = next
	}
	if addrs == nil {
		return nil, 0
	}
	return addrs, time.Duration(least) * time.Second
}
