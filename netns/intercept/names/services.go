package names

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// typeANY asks for records of all kinds (RFC 1035, 3.2.3).
const typeANY dnsmessage.Type = 255

// hints are the addresses that a record of kind SVCB or HTTPS gives its owner (RFC 9460, 7.3): clients connect to them as to those of
// address records, and may do so before they have asked for these. The record is the parser's next.
func hints(p *dnsmessage.Parser, kind dnsmessage.Type) (addrs []netip.Addr, err error) {
	r, err := service(p, kind)
	if err != nil || r.Priority == 0 { // an alias of a service has no parameters that count
		return nil, err
	}
	for _, param := range r.Params {
		size := 0
		switch param.Key {
		case dnsmessage.SVCParamIPv4Hint:
			size = 4
		case dnsmessage.SVCParamIPv6Hint:
			size = 16
		}
		for v := param.Value; size > 0 && len(v) >= size && len(addrs) < maxAddresses; v = v[size:] {
			a, _ := netip.AddrFromSlice(v[:size])
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, nil
}

func service(p *dnsmessage.Parser, kind dnsmessage.Type) (dnsmessage.SVCBResource, error) {
	if kind == dnsmessage.TypeSVCB {
		return p.SVCBResource()
	}
	r, err := p.HTTPSResource()
	return r.SVCBResource, err
}

// Hides tells whether an answer has keys of a service (RFC 9460 and 9849, Encrypted Client Hello), by which clients hide the host of a
// connection from who is asked to let it out; or may have, since it cannot be read to its end. Only answers to who asked for services,
// or for everything, are looked at: nobody takes such records from others.
func Hides(b []byte) bool {
	var p dnsmessage.Parser
	if h, err := p.Start(b); err != nil || !h.Response {
		return false
	}
	asked, err := p.Question()
	if err != nil || asked.Type != dnsmessage.TypeHTTPS && asked.Type != dnsmessage.TypeSVCB && asked.Type != typeANY {
		return false
	}
	if p.SkipAllQuestions() != nil {
		return true
	}
	left := maxRecords
	for _, section := range []struct {
		next func() (dnsmessage.ResourceHeader, error)
		skip func() error
	}{{p.AnswerHeader, p.SkipAnswer}, {p.AuthorityHeader, p.SkipAuthority}, {p.AdditionalHeader, p.SkipAdditional}} {
		for {
			h, err := section.next()
			if errors.Is(err, dnsmessage.ErrSectionDone) {
				break
			}
			if left--; err != nil || left < 0 {
				return true
			}
			if h.Type != dnsmessage.TypeHTTPS && h.Type != dnsmessage.TypeSVCB {
				err = section.skip()
			} else if r, failed := service(&p, h.Type); failed != nil {
				err = failed
			} else if slices.ContainsFunc(r.Params, func(p dnsmessage.SVCParam) bool { return p.Key == dnsmessage.SVCParamECH }) {
				return true
			}
			if err != nil {
				return true
			}
		}
	}
	return false
}

// Without is an answer without its records: the name is there, and has none of the kind that was asked for. nil: its question is
// not to be read.
func Without(b []byte) []byte {
	end := questionEnd(b)
	if end == 0 {
		return nil
	}
	out := make([]byte, end, end+len(option))
	copy(out, b)
	out[2] &= 0x80 | 0x79 // neither authoritative nor cut off
	out[3] &= 0x80        // whether recursion is available
	clear(out[4:header])
	out[5] = 1
	if hasOption(b) {
		out[11] = 1
		out = append(out, option...)
	}
	return out
}
