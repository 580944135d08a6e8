package threat

import (
	"encoding/json"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// What a feed is believed that says nothing about it itself.
const (
	confidenceList = 0.6
	confidenceDrop = 0.9 // "drop all traffic": whole networks of criminals
)

// listLine reads "ADDRESS", "PREFIX", "DOMAIN", "URL", "HASH", "ADDRESS COUNT", "FIRST - LAST" and lines of hosts files;
// what stands behind # or ; is a comment.
func (s *source) listLine(line int, text string) {
	if text[0] == '#' || text[0] == ';' || text[0] == '!' {
		s.comment(text)
		return
	}
	if i := strings.Index(text, " #"); i >= 0 {
		text = text[:i]
	}
	text, _, _ = strings.Cut(text, ";")
	st := statement{line: line, confidence: confidenceList}
	fields := strings.Fields(text)
	switch {
	case len(fields) == 2 && isDigits(fields[1]):
		if count, err := strconv.ParseUint(fields[1], 10, 16); err == nil && count <= 200 { // a larger one is a port
			st.confidence = counted(float64(count))
		}
	case len(fields) == 2 && (fields[0] == "0.0.0.0" || fields[0] == "127.0.0.1" || fields[0] == "::1"):
		fields = fields[1:] // a hosts file sends the domain nowhere
	case len(fields) == 3 && fields[1] == "-":
		s.span(st, fields[0], fields[2])
		return
	}
	if len(fields) == 0 {
		return
	}
	if first, last, ok := strings.Cut(fields[0], "-"); ok && len(fields) == 1 {
		if _, err := netip.ParseAddr(first); err == nil {
			s.span(st, first, last)
			return
		}
	}
	if i, ok := parseIndicator(fields[0]); ok {
		s.add(i, st)
		return
	}
	s.problem(line, "%.60q is no address, prefix, domain, URL or hash", fields[0])
}

// counted is the belief in an address on n lists that are wrong half of the time, three quarters of those together:
// one list .3, three .66, ten .97.
func counted(n float64) float64 { return 1 - math.Pow(0.7, n) }

// comment looks for the time a list was made.
func (s *source) comment(text string) {
	text = strings.TrimSpace(strings.TrimLeft(text, "#;! "))
	key, value, ok := strings.Cut(text, ":")
	if !ok {
		return
	}
	switch key = strings.ToLower(strings.TrimSpace(key)); key {
	case "last update", "last updated", "last-modified", "source file date", "this file date", "generated", "updated", "timestamp":
		s.madeAt(parseTime(strings.TrimSpace(value)))
	}
}

// timeLayouts are how feeds write times; without a zone they are UTC.
var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04:05 UTC", "2006-01-02 15:04", "2006-01-02", time.RFC1123Z, time.RFC1123,
	"Mon Jan _2 15:04:05 MST 2006", time.UnixDate, "Mon Jan _2 15:04:05 2006", "2006-01-02 15:04:05 (UTC)", "2006/01/02 15:04:05",
}

func parseTime(s string) time.Time {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t
		}
	}
	return time.Time{}
}

// span adds the prefixes that make up the addresses from first to last.
func (s *source) span(st statement, first, last string) {
	a, err := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(strings.TrimSpace(last))
	if err != nil || err2 != nil || !a.Is4() || !b.Is4() || b.Less(a) {
		s.problem(st.line, "%.40q to %.40q is no range of IPv4 addresses", first, last)
		return
	}
	from, to := number(a), number(b)
	for from <= to { // at most 62 prefixes
		size := uint64(1)
		for from%(2*size) == 0 && from+2*size-1 <= to && size < 1<<32 {
			size *= 2
		}
		bits := 32
		for n := size; n > 1; n /= 2 {
			bits--
		}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(from >> 24), byte(from >> 16), byte(from >> 8), byte(from)}), bits)
		s.add(indicator{kind: kindPrefix, prefix: p, text: p.String()}, st)
		from += size
	}
}

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
}

// dropLine reads a line of Spamhaus's DROP lists: {"cidr":"1.10.16.0/20","sblid":"SBL256894","rir":"apnic"}, and in the
// end {"type":"metadata","timestamp":1700000000,"size":…,"records":…}. ASN-DROP has no addresses.
func (s *source) dropLine(line int, text string) {
	var d struct {
		CIDR      string          `json:"cidr"`
		Type      string          `json:"type"`
		Timestamp int64           `json:"timestamp"`
		ASN       json.RawMessage `json:"asn"`
	}
	text = strings.TrimSuffix(strings.TrimSpace(strings.Trim(text, "[]")), ",") // also as one JSON list
	if text == "" {
		return
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		s.problem(line, "is no JSON object: %v", err)
		return
	}
	switch {
	case d.Type == "metadata":
		s.madeAt(time.Unix(d.Timestamp, 0))
	case d.CIDR == "" && len(d.ASN) > 0:
		s.feed.Ignored++
	default:
		p, ok := parsePrefix(d.CIDR)
		if !ok {
			s.problem(line, "cidr %.60q is no prefix", d.CIDR)
			return
		}
		s.add(indicator{kind: kindPrefix, prefix: p, text: d.CIDR}, statement{line: line, confidence: confidenceDrop})
	}
}

// blocks are the ranges that every network has for itself (RFC 6890), and everything.
var blocks = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("::/8"),
	netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// ordinary tells whether a prefix holds a whole range that every network uses itself. Lists against spoofed packets (FireHOL
// level 1) hold these; to a container they are its neighbours and its resolver. One address of such a range is a site's own word.
func ordinary(p netip.Prefix) bool {
	for _, b := range blocks {
		if p.Addr().Is4() == b.Addr().Is4() && p.Bits() <= b.Bits() && p.Contains(b.Addr()) {
			return true
		}
	}
	return false
}
