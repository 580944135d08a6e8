package threat

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

// Bounds of a Set. What exceeds them is counted and reported with the file it stands in, never a reason to fail.
const (
	MaxFeeds    = 1024
	MaxPrefixes = 2_000_000 // 36 MiB a million
	MaxNames    = 1_000_000 // domains, URLs and hashes
	MaxJoint    = 1_000     // indicators that need several things seen together
)

// floor is the confidence below which an indicator counts no longer.
const floor = 0.05

// Set is all indicators of all feeds. It does not change; any goroutine may ask it.
type Set struct {
	feeds    []Feed
	prefixes prefixes
	names    map[uint64]entry // by hash of what is listed: its text is in the question when it matches
	joint    []joint
	seed     maphash.Seed
	halfLife time.Duration
}

// Feed says where indicators come from.
type Feed struct {
	Name   string    `json:"name"` // base name of the file without its endings
	File   string    `json:"file"`
	Format string    `json:"format"`
	Time   time.Time `json:"time"` // when the feed says it was made, else its file's time

	Prefixes int `json:"prefixes"`
	Names    int `json:"names"` // domains, URLs, hashes
	Joint    int `json:"joint,omitempty"`
	Expired  int `json:"expired,omitempty"` // past their own end when the file was read, or revoked
	Ignored  int `json:"ignored,omitempty"` // understood, and not used: ranges that every network has, kinds nobody observes
	Problems int `json:"problems,omitempty"`
}

// joint is an indicator of several parts that all have to be seen.
type joint struct {
	parts []indicator
	entry
}

// Feeds lists the feeds a set was made from.
func (s *Set) Feeds() []Feed { return s.feeds }

// Size is how many prefixes and names the set has.
func (s *Set) Size() (prefixes, names int) { return len(s.prefixes.hi), len(s.names) }

// Lists tells whether an address is in a listed prefix, whatever the confidence: the fast question.
func (s *Set) Lists(a netip.Addr) bool {
	k, ok := keyOf(a)
	return ok && s.prefixes.lookup(k) != noParent
}

// Contacts returns what the feeds list among destinations, in their order; of each destination and feed at most one, the
// most specific. A destination is what an observation holds, proto/address:port, or an address, a domain, a URL, or the
// hexadecimal MD5, SHA-1 or SHA-256 of a file. Confidence is as of now: it halves with each half-life of an
// indicator's age; what is past its end or below 0.05 is left out.
func (s *Set) Contacts(now time.Time, destinations ...string) []evidence.Contact {
	var out []evidence.Contact
	var seen []indicator
	for _, d := range destinations {
		i, ok := parseDestination(d)
		if !ok {
			continue
		}
		out = s.match(out, now, d, i)
		if len(s.joint) > 0 {
			seen = append(seen, i)
		}
	}
	return s.matchJoint(out, now, seen)
}

// Prefixes are the listed addresses and networks that are believed at least that much as of now, those in others included.
func (s *Set) Prefixes(now time.Time, least float64) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for i := range s.prefixes.items {
			e := s.prefixes.items[i].entry
			listed := s.feeds[e.feed].Time
			if e.listed > 0 {
				listed = time.Unix(int64(e.listed), 0)
			}
			ended := e.until > 0 && now.Unix() >= int64(e.until)
			if ended || decayed(float64(e.confidence)/255, now.Sub(listed), s.halfLife) < max(least, floor) {
				continue
			}
			if !yield(s.prefixes.prefix(uint32(i))) {
				return
			}
		}
	}
}

func (s *Set) match(out []evidence.Contact, now time.Time, destination string, i indicator) []evidence.Contact {
	if i.kind == kindPrefix {
		return s.matchAddress(out, now, destination, i.prefix.Addr())
	}
	for text := range i.forms() {
		if e, ok := s.names[s.hash(i.kind, text)]; ok {
			if c, ok := s.contact(now, destination, text, e); ok {
				return append(out, c)
			}
		}
	}
	if i.kind == kindURL { // the host of a URL is listed more often than the URL
		if host, ok := hostOf(i.text); ok {
			return s.match(out, now, destination, host)
		}
	}
	return out
}

func (s *Set) matchAddress(out []evidence.Contact, now time.Time, destination string, a netip.Addr) []evidence.Contact {
	k, ok := keyOf(a)
	if !ok {
		return out
	}
	first := len(out)
next:
	for i := s.prefixes.lookup(k); i != noParent; i = s.prefixes.items[i].parent {
		c, ok := s.contact(now, destination, s.prefixes.prefix(i).String(), s.prefixes.items[i].entry)
		if !ok {
			continue
		}
		for _, earlier := range out[first:] {
			if earlier.Feed == c.Feed {
				continue next
			}
		}
		out = append(out, c)
	}
	return out
}

// contact is what e says of a destination, now.
func (s *Set) contact(now time.Time, destination, indicator string, e entry) (evidence.Contact, bool) {
	feed := &s.feeds[e.feed]
	listed := feed.Time
	if e.listed > 0 {
		listed = time.Unix(int64(e.listed), 0).UTC()
	}
	c := evidence.Contact{Destination: destination, Indicator: indicator, Feed: feed.Name, Listed: listed,
		Line: int(e.line), File: feed.File,
		Confidence: decayed(float64(e.confidence)/255, now.Sub(listed), s.halfLife)}
	ended := e.until > 0 && now.Unix() >= int64(e.until)
	return c, !ended && c.Confidence >= floor
}

func (s *Set) matchJoint(out []evidence.Contact, now time.Time, seen []indicator) []evidence.Contact {
	for _, j := range s.joint {
		text, last := "", ""
		for _, part := range j.parts {
			found := ""
			for _, i := range seen {
				if part.matches(i) {
					found = i.text
					break
				}
			}
			if last = found; found == "" {
				break
			}
			if text != "" {
				text += " AND "
			}
			text += part.text
		}
		if last == "" {
			continue
		}
		if c, ok := s.contact(now, last, text, j.entry); ok {
			out = append(out, c)
		}
	}
	return out
}

func (s *Set) hash(k kind, text string) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	h.WriteByte(byte(k))
	h.WriteString(text)
	return h.Sum64()
}
