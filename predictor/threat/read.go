package threat

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds of one feed file.
const (
	MaxFile = 64 << 20 // bytes; a million addresses are 15 MiB
	maxLine = 64 << 10 // of lists and CSV
)

// Problem is something in a feed file that could not be read. The rest of the file counts unless Fatal is set.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // 0: of the whole file
	Message string `json:"message"`
	Fatal   bool   `json:"fatal,omitempty"` // nothing of the file is used: what it said before stays
}

func (p Problem) String() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	}
	return p.File + ": " + p.Message
}

// The formats of feed files.
const (
	FormatList  = "list"  // addresses, prefixes, domains, URLs or hashes, one a line; also "ADDRESS COUNT" (ipsum), netsets
	FormatDrop  = "drop"  // Spamhaus: a JSON object with cidr a line, the last one metadata
	FormatCSV   = "csv"   // abuse.ch: Feodo Tracker, URLhaus, ThreatFox, SSLBL
	FormatSTIX  = "stix"  // a STIX 2.1 bundle
	FormatOther = "other" // not recognised
)

// Builder makes a Set of feed files.
type Builder struct {
	set      *Set
	before   *Set
	now      time.Time
	problems []Problem
}

// NewBuilder returns a builder of a set whose confidence halves with each halfLife (0: never). now tells which
// indicators have ended. before is the set that the new one replaces, from which Keep takes; nil: none.
func NewBuilder(now time.Time, halfLife time.Duration, before *Set) *Builder {
	b := &Builder{now: now, before: before, set: &Set{seed: maphash.MakeSeed(), names: map[uint64]entry{}, halfLife: halfLife}}
	if before != nil {
		b.set.seed = before.seed // what was hashed is found by the same hash
	}
	return b
}

// Keep adds what the set before holds of a file, without reading it again; ok is false when that set knows no such file.
func (b *Builder) Keep(file string) (ok bool) {
	if b.before == nil || len(b.set.feeds) >= MaxFeeds {
		return false
	}
	from := slices.IndexFunc(b.before.feeds, func(f Feed) bool { return f.File == file })
	if from < 0 {
		return false
	}
	to := uint16(len(b.set.feeds))
	for i, it := range b.before.prefixes.items {
		if int(it.feed) == from {
			it.feed = to
			b.set.prefixes.hi = append(b.set.prefixes.hi, b.before.prefixes.hi[i])
			b.set.prefixes.items = append(b.set.prefixes.items, it)
		}
	}
	for h, e := range b.before.names {
		if old, ok := b.set.names[h]; int(e.feed) == from && (!ok || e.confidence > old.confidence) {
			e.feed = to
			b.set.names[h] = e
		}
	}
	for _, j := range b.before.joint {
		if int(j.feed) == from {
			j.feed = to
			b.set.joint = append(b.set.joint, j)
		}
	}
	b.set.feeds = append(b.set.feeds, b.before.feeds[from])
	return true
}

// maxProblems is how many problems of one file are told; the rest are counted in its Feed.
const maxProblems = 10

// source is one file while it is read.
type source struct {
	*Builder
	feed     Feed
	number   uint16
	fatal    bool
	prefixes int // in the set before it
	names    map[uint64]entry
}

// Read adds a feed file of the given name; at is the file's time, used when the feed names none. What is wrong in it is
// kept for Set. It reports whether the file was used: one that is not a feed, or is cut short, adds nothing.
func (b *Builder) Read(name string, at time.Time, r io.Reader) bool {
	if len(b.set.feeds) >= MaxFeeds {
		b.problems = append(b.problems, Problem{File: name, Message: fmt.Sprintf("there are more than %d feeds; join small ones", MaxFeeds), Fatal: true})
		return false
	}
	s := &source{Builder: b, number: uint16(len(b.set.feeds)), prefixes: len(b.set.prefixes.hi), names: map[uint64]entry{},
		feed: Feed{Name: feedName(name), File: name, Time: at.UTC(), Format: FormatOther}}
	joint := len(b.set.joint)
	s.read(r)
	if s.feed.Prefixes+s.feed.Names+s.feed.Joint+s.feed.Expired+s.feed.Ignored == 0 && s.feed.Problems > 0 && !s.fatal {
		s.fail(0, "no line of it is an indicator; feeds are lists, Spamhaus JSON, abuse.ch CSV and STIX 2.1 bundles")
	}
	if s.fatal {
		b.set.prefixes.hi, b.set.prefixes.items = b.set.prefixes.hi[:s.prefixes], b.set.prefixes.items[:s.prefixes]
		b.set.joint = b.set.joint[:joint]
		return false
	}
	for h, e := range s.names {
		if old, ok := b.set.names[h]; !ok || e.confidence > old.confidence {
			b.set.names[h] = e
		}
	}
	b.set.feeds = append(b.set.feeds, s.feed)
	return true
}

// Set returns what was read, and everything that was wrong. The builder must not be used again.
func (b *Builder) Set() (*Set, []Problem) {
	b.set.prefixes.build()
	return b.set, b.problems
}

// feedName is a file's name without directory and endings.
func feedName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".")
	return name
}

func (s *source) read(r io.Reader) {
	limited := &io.LimitedReader{R: r, N: MaxFile + 1}
	br := bufio.NewReaderSize(limited, maxLine)
	head, err := br.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) {
		s.fail(0, "cannot be read: %v", err)
		return
	}
	switch s.feed.Format = detect(head); s.feed.Format {
	case FormatSTIX:
		s.readSTIX(br)
	case FormatDrop:
		s.lines(br, s.dropLine)
	case FormatCSV:
		csv := &csvReader{source: s}
		s.lines(br, csv.line)
	default:
		s.lines(br, s.listLine)
	}
	if limited.N <= 0 && !s.fatal {
		s.fail(0, "has more than %d MiB; split it", MaxFile>>20)
	}
}

// detect tells a format by the first bytes of a file.
func detect(head []byte) string {
	head = bytes.TrimPrefix(head, []byte("\xef\xbb\xbf"))
	text := strings.TrimSpace(string(head))
	if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		first, _, _ := strings.Cut(text, "\n")
		if strings.Contains(first, `"cidr"`) || strings.Contains(first, `"asn"`) || strings.Contains(first, `"metadata"`) && !strings.Contains(text, `"objects"`) {
			return FormatDrop
		}
		return FormatSTIX
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if bare := strings.TrimSpace(strings.TrimLeft(line, "#;")); strings.Contains(bare, ",") && isHeader(bare) {
			return FormatCSV
		}
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if strings.Count(line, ",") >= 2 {
			return FormatCSV
		}
		break
	}
	return FormatList
}

// lines gives each line to f, without its end. A line that is too long is a problem of its own.
func (s *source) lines(r *bufio.Reader, f func(line int, text string)) {
	for n := 1; !s.fatal; n++ {
		data, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			s.problem(n, "is longer than %d KiB", maxLine>>10)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.ReadSlice('\n')
			}
			data = nil
		}
		text := string(data)
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		if text = strings.TrimSpace(text); text != "" {
			f(n, text)
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.fail(n, "cannot be read: %v", err)
		}
	}
}

func (s *source) problem(line int, format string, args ...any) {
	if s.feed.Problems++; s.feed.Problems <= maxProblems {
		s.problems = append(s.problems, Problem{File: s.feed.File, Line: line, Message: fmt.Sprintf(format, args...)})
	}
}

func (s *source) fail(line int, format string, args ...any) {
	s.fatal = true
	s.problems = append(s.problems, Problem{File: s.feed.File, Line: line, Message: fmt.Sprintf(format, args...), Fatal: true})
}

// statement is what a feed says about an indicator.
type statement struct {
	line          int
	confidence    float64   // 0 to 1
	listed, until time.Time // zero: not said
}

// add takes one indicator into the set.
func (s *source) add(i indicator, st statement) {
	e := s.entry(st)
	switch {
	case e.until > 0 && s.now.Unix() >= int64(e.until):
		s.feed.Expired++
	case i.kind == kindPrefix && ordinary(i.prefix):
		s.feed.Ignored++
	case i.kind == kindPrefix && len(s.set.prefixes.hi) >= MaxPrefixes:
		s.fail(st.line, "there are more than %d prefixes in all feeds", MaxPrefixes)
	case i.kind == kindPrefix:
		if !s.set.prefixes.add(i.prefix, e) {
			s.problem(st.line, "%.60q is no address of a host", i.text)
			return
		}
		s.feed.Prefixes++
	case len(s.set.names)+len(s.names) >= MaxNames:
		s.fail(st.line, "there are more than %d domains, URLs and hashes in all feeds", MaxNames)
	default:
		s.names[s.set.hash(i.kind, i.text)] = e
		s.feed.Names++
	}
}

func (s *source) entry(st statement) entry {
	return entry{line: uint32(min(max(st.line, 0), math.MaxUint32)), feed: s.number,
		confidence: uint8(math.Round(255 * min(max(st.confidence, 0), 1))), listed: seconds(st.listed), until: seconds(st.until)}
}

func seconds(t time.Time) uint32 {
	if u := t.Unix(); u > 0 && u < math.MaxUint32 {
		return uint32(u)
	}
	return 0
}

// madeAt takes the time a feed says it was made, unless that is in the future.
func (s *source) madeAt(t time.Time) {
	if !t.IsZero() && !t.After(s.now.Add(24*time.Hour)) {
		s.feed.Time = t.UTC()
	}
}
