package threat

import (
	"iter"
	"math"
	"net/netip"
	"strings"
	"time"
)

// kind is what an indicator is about.
type kind uint8

const (
	kindPrefix kind = iota
	kindDomain      // and everything below it
	kindURL
	kindHash
)

// maxText bounds a domain, URL or hash.
const maxText = 2048

// indicator is one thing that is listed, or asked about, in its normal form.
type indicator struct {
	kind   kind
	prefix netip.Prefix
	text   string
}

// matches tells whether a part of a joint indicator is met by something seen.
func (i indicator) matches(seen indicator) bool {
	switch {
	case i.kind != seen.kind:
		return false
	case i.kind == kindPrefix:
		return i.prefix.Contains(seen.prefix.Addr())
	}
	for text := range seen.forms() {
		if text == i.text {
			return true
		}
	}
	return false
}

// forms yields what a listed text may be to match i: itself, and of a domain those above it that still have a dot.
func (i indicator) forms() iter.Seq[string] {
	return func(yield func(string) bool) {
		text := i.text
		for n := 0; n < 128; n++ { // a name has at most 127 labels
			if !yield(text) || i.kind != kindDomain {
				return
			}
			_, above, ok := strings.Cut(text, ".")
			if !ok || !strings.Contains(above, ".") {
				return
			}
			text = above
		}
	}
}

// parseDestination reads what a container was seen to reach.
func parseDestination(s string) (indicator, bool) {
	if proto, rest, ok := strings.Cut(s, "/"); ok && !strings.Contains(proto, ":") && len(proto) <= 8 && !strings.Contains(rest, "/") {
		switch proto {
		case "tcp", "udp", "icmp", "sctp", "dns", "tcp6", "udp6":
			s = rest
		}
	}
	return parseIndicator(s)
}

// parseIndicator finds out what s is. Ports are left out; a prefix is masked.
func parseIndicator(s string) (indicator, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > maxText {
		return indicator{}, false
	}
	if strings.Contains(s, "://") {
		return parseURL(s)
	}
	if p, ok := parsePrefix(s); ok {
		return indicator{kind: kindPrefix, prefix: p, text: s}, true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		a := ap.Addr().Unmap().WithZone("")
		return indicator{kind: kindPrefix, prefix: netip.PrefixFrom(a, a.BitLen()), text: a.String()}, true
	}
	if isHash(s) {
		return indicator{kind: kindHash, text: strings.ToLower(s)}, true
	}
	host, port, ok := strings.Cut(s, ":")
	if ok && !isDigits(port) {
		return indicator{}, false
	}
	return parseDomain(host)
}

func parsePrefix(s string) (netip.Prefix, bool) {
	if strings.IndexByte(s, '/') < 0 {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, false
		}
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	return p.Masked(), true
}

// parseDomain reads a host name of at least two labels. "*.example.com" is example.com: both mean what is below, too.
func parseDomain(s string) (indicator, bool) {
	s = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(s, "*."), "."))
	if len(s) > 253 || !strings.Contains(s, ".") {
		return indicator{}, false
	}
	letter := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return indicator{}, false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case c >= 'a' && c <= 'z', c >= 0x80:
				letter = true
			case c >= '0' && c <= '9', c == '_', c == '-':
			default:
				return indicator{}, false
			}
		}
	}
	return indicator{kind: kindDomain, text: s}, letter // 1.2.3 is an address gone wrong
}

// parseURL lowers scheme and host, and leaves out the fragment and a path of "/".
func parseURL(s string) (indicator, bool) {
	scheme, rest, _ := strings.Cut(s, "://")
	rest, _, _ = strings.Cut(rest, "#")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host, path := strings.ToLower(rest[:end]), rest[end:]
	if _, after, ok := strings.Cut(host, "@"); ok {
		host = after
	}
	if host == "" || scheme == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' }) {
		return indicator{}, false
	}
	if path == "/" {
		path = ""
	}
	return indicator{kind: kindURL, text: strings.ToLower(scheme) + "://" + host + path}, true
}

// hostOf returns the address or domain of a URL in its normal form.
func hostOf(url string) (indicator, bool) {
	_, rest, _ := strings.Cut(url, "://")
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		rest = rest[:end]
	}
	if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") {
		rest = rest[1 : len(rest)-1]
	}
	i, ok := parseIndicator(rest)
	return i, ok && i.kind != kindURL && i.kind != kindHash
}

func isHash(s string) bool {
	if n := len(s); n != 32 && n != 40 && n != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i] | 0x20; !(s[i] >= '0' && s[i] <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// decayed is a confidence after some time. Addresses change hands, so belief in them fades: it halves with each half-life.
// The idea is of Iklody, Wagener, Dulaunoy, Mokaddem and Wagner, Decaying Indicators of Compromise (arXiv 1803.11052);
// their curve is a polynomial with an end, ours has one parameter and the floor for its end. A half-life of 0 means no decay.
func decayed(c float64, age, halfLife time.Duration) float64 {
	if halfLife <= 0 || age <= 0 {
		return c
	}
	return c * math.Exp2(-float64(age)/float64(halfLife))
}
