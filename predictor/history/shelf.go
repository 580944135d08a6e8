package history

import (
	"encoding/binary"
	"iter"
	"math"

	"forefend.dev/forefend/runtime/workload"
)

// shelf holds the summaries of all keys, each packed into one piece of memory without a pointer in it. A collection of
// garbage has to follow every pointer there is, and does so beside the answers that containers wait for; of tens of thousands of
// summaries an answer looks at a few.
type shelf struct {
	packed map[workload.Key]packed // the value of a key lies in its packed summary
	bytes  int                     // that all of it takes, about
	packer packer                  // of put
}

func newShelf() shelf { return shelf{packed: make(map[workload.Key]packed)} }

// get returns a copy of what is remembered of a key, nil when that is nothing.
func (s *shelf) get(key workload.Key) *summary {
	p, ok := s.packed[key]
	if !ok {
		return nil
	}
	return p.unpack()
}

// put replaces what is remembered of a key.
func (s *shelf) put(sum *summary) {
	s.forget(sum.key) // for a key that is there, a map would go on with the old one's value, which lies in the old summary
	p := s.packer.pack(sum)
	s.packed[p.key()] = p
	s.bytes += p.size()
}

// change applies f to what is remembered of a key, or to an empty summary.
func (s *shelf) change(key workload.Key, f func(*summary)) {
	sum := s.get(key)
	if sum == nil {
		sum = &summary{key: key}
	}
	f(sum)
	s.put(sum)
}

func (s *shelf) forget(key workload.Key) {
	if p, ok := s.packed[key]; ok {
		s.bytes -= p.size()
		delete(s.packed, key)
	}
}

// all yields a copy of every summary.
func (s *shelf) all() iter.Seq[*summary] {
	return func(yield func(*summary) bool) {
		for _, p := range s.packed {
			if !yield(p.unpack()) {
				return
			}
		}
	}
}

// heads yields the head of every summary.
func (s *shelf) heads() iter.Seq[head] {
	return func(yield func(head) bool) {
		for _, p := range s.packed {
			if !yield(p.head()) {
				return
			}
		}
	}
}

// packed is a summary's head and then its other fields, in the order of unpack. It is never stored: that is the snapshot's format.
type packed string

// head is what lists look at, and who asks only how many runs there were.
type head struct {
	key  workload.Key
	name string
	last int64
	runs uint32
}

// size is about how many bytes p takes, its place in the shelf included.
func (p packed) size() int {
	const place = 80
	return place + len(p)
}

func (p packed) key() workload.Key { return p.head().key }

func (p packed) head() head {
	u := unpacker{rest: string(p)}
	return u.head()
}

// pack returns a packed copy of s.
func (b *packer) pack(s *summary) packed {
	*b = (*b)[:0]
	b.uint(uint64(s.key.Level))
	b.text(s.key.Value)
	b.text(s.name)
	b.uint(uint64(s.last))
	for _, v := range []uint32{s.runs, s.neverWrote, s.wrote, s.measured, uint32(s.next)} {
		b.uint(uint64(v))
	}
	b.float(s.lasted)
	b.peaks(s.ring)
	b.peaks(s.older)
	for _, c := range []*calls{&s.calls, &s.serving, &s.stopping} {
		b.uint(uint64(c.runs))
		b.calls(c.many)
		b.calls(c.once)
	}
	b.uint(uint64(len(s.destinations)))
	for _, d := range s.destinations {
		b.text(d)
	}
	b.uint(uint64(s.ways.runs))
	b.uint(uint64(len(s.ways.list)))
	for _, w := range s.ways.list {
		b.text(w.name)
		b.uint(uint64(w.runs))
	}
	return packed(*b)
}

// unpack returns a summary that may be changed. Its texts lie in p.
func (p packed) unpack() *summary {
	u := unpacker{rest: string(p)}
	h := u.head()
	s := &summary{key: h.key, name: h.name, last: h.last, runs: h.runs}
	for _, to := range []*uint32{&s.neverWrote, &s.wrote, &s.measured} {
		*to = uint32(u.uint())
	}
	s.next = uint8(u.uint())
	s.lasted = u.float()
	s.ring, s.older = u.peaks(), u.peaks()
	for _, c := range []*calls{&s.calls, &s.serving, &s.stopping} {
		c.runs = uint32(u.uint())
		c.many, c.once = u.calls(), u.calls()
	}
	if n := u.uint(); n > 0 {
		s.destinations = make([]string, n)
		for i := range s.destinations {
			s.destinations[i] = u.text()
		}
	}
	s.ways.runs = uint8(u.uint())
	if n := u.uint(); n > 0 {
		s.ways.list = make([]usedWay, n)
		for i := range s.ways.list {
			s.ways.list[i] = usedWay{u.text(), uint16(u.uint())}
		}
	}
	return s
}

// packer appends the parts of a summary. Its memory is used again.
type packer []byte

func (b *packer) uint(v uint64) { *b = binary.AppendUvarint(*b, v) }

func (b *packer) text(s string) {
	b.uint(uint64(len(s)))
	*b = append(*b, s...)
}

func (b *packer) float(f float32) { *b = binary.LittleEndian.AppendUint32(*b, math.Float32bits(f)) }

func (b *packer) peaks(list []peak) {
	b.uint(uint64(len(list)))
	for _, p := range list {
		for _, v := range p {
			b.float(v)
		}
	}
}

// calls are ordered by id: the step from one to the next is small, and so is what is counted of most.
func (b *packer) calls(list []call) {
	b.uint(uint64(len(list)))
	before := uint32(0)
	for _, c := range list {
		b.uint(uint64(c.id() - before))
		b.uint(uint64(c.value())<<2 | uint64(c>>valueBits&3))
		before = c.id()
	}
}

// unpacker reads what packer wrote in this process.
type unpacker struct{ rest string }

func (u *unpacker) uint() (v uint64) {
	for i := range len(u.rest) {
		c := u.rest[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			u.rest = u.rest[i+1:]
			return v
		}
	}
	panic("history: a packed summary ends early")
}

func (u *unpacker) next(n int) (part string) {
	part, u.rest = u.rest[:n], u.rest[n:]
	return part
}

func (u *unpacker) text() string { return u.next(int(u.uint())) }

func (u *unpacker) float() float32 {
	b := u.next(4)
	return math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
}

func (u *unpacker) head() (h head) {
	h.key.Level = workload.Level(u.uint())
	h.key.Value, h.name = u.text(), u.text()
	h.last, h.runs = int64(u.uint()), uint32(u.uint())
	return h
}

func (u *unpacker) peaks() []peak {
	n := u.uint()
	if n == 0 {
		return nil
	}
	list := make([]peak, n)
	for i := range list {
		for kind := range list[i] {
			list[i][kind] = u.float()
		}
	}
	return list
}

func (u *unpacker) calls() []call {
	n := u.uint()
	if n == 0 {
		return nil
	}
	list := make([]call, n)
	id := uint32(0)
	for i := range list {
		id += uint32(u.uint())
		v := u.uint()
		list[i] = newCall(id, call(v&3)<<valueBits, uint32(v>>2))
	}
	return list
}
