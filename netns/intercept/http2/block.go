package http2

import (
	"errors"

	"golang.org/x/net/http2/hpack"

	"forefend.dev/forefend/netns/intercept/http1"
)

// Bounds of a header block.
const (
	MaxBlock = http1.MaxHead // bytes, as it travels
	MaxList  = http1.MaxHead // bytes of its fields, 32 more for each of them (RFC 9113, 6.5.2)
)

// ErrCompression says that a block cannot be read, which ends the connection: nobody knows what later ones mean.
var ErrCompression = errors.New("a header block that cannot be read")

// Block is a header block that was read.
type Block struct {
	// Fields are all fields, pseudo-headers too, in their order; parts of what was read, of tables, and of memory that the next
	// Read with this Block takes.
	Fields []http1.Field
	// Prefix is how many bytes at its beginning change the size of the table: who sends the block on leaves them out.
	Prefix int
	// Stateless tells that the rest means the same to a reader without memory. Another block has to be written anew.
	Stateless bool
	// Again tells that the same bytes will mean the same next time.
	Again bool

	arena []byte
	size  int
}

// Decoder reads the blocks of one direction of a connection. A sender is asked for a table of size 0 and may use one until it
// has heard that.
type Decoder struct {
	table   []tableEntry // the oldest first
	used    int
	most    int // of used
	allowed int // of most
}

type tableEntry struct{ name, value []byte }

func (e tableEntry) size() int { return len(e.name) + len(e.value) + fieldOverhead }

const fieldOverhead = 32 // RFC 7541, 4.1

// NewDecoder makes one with a table of 4096 bytes, which senders may assume at first.
func NewDecoder() *Decoder { return &Decoder{most: defaultTable, allowed: defaultTable} }

// Agreed says that the sender has heard that its table is to have no size.
func (d *Decoder) Agreed() { d.allowed = 0 }

// Settled says that the sender has no table and gets none: a block of which Again was said means the same as then, and need
// not be read.
func (d *Decoder) Settled() bool { return d.most == 0 && d.allowed == 0 }

// static is the table of RFC 7541, appendix A, by index.
var static = func() (table [62]http1.Field) {
	d := hpack.NewDecoder(0, nil)
	for i := 1; i < len(table); i++ {
		fields, err := d.DecodeFull([]byte{0x80 | byte(i)})
		if err != nil {
			panic("the static table of hpack: " + err.Error()) // of constants
		}
		table[i] = http1.Field{Name: []byte(fields[0].Name), Value: []byte(fields[0].Value)}
	}
	return table
}()

// at returns the field with an index, and whether it is of the dynamic table.
func (d *Decoder) at(i int) (f http1.Field, dynamic, ok bool) {
	switch n := i - len(static); {
	case i == 0, n >= len(d.table):
		return f, false, false
	case n >= 0:
		e := d.table[len(d.table)-1-n]
		return http1.Field{Name: e.name, Value: e.value}, true, true
	}
	return static[i], false, true
}

// Read reads a whole block. The error is ErrCompression, or an *http1.Fault where the block is larger than what is taken; the
// Decoder is in order then.
func (d *Decoder) Read(b *Block, p []byte) error {
	*b = Block{Fields: b.Fields[:0], arena: b.arena[:0], Stateless: true, Again: true}
	whole := len(p)
	for len(p) > 0 && p[0]>>5 == 1 {
		size, rest, ok := integer(p, 5)
		if !ok || size > d.allowed {
			return ErrCompression
		}
		p, b.Again = rest, false
		d.most = size
		d.evict(0)
	}
	b.Prefix = whole - len(p)
	for len(p) > 0 {
		var ok bool
		if p, ok = d.field(b, p); !ok {
			return ErrCompression
		}
	}
	if b.size > MaxList || len(b.Fields) > http1.MaxFields {
		return &http1.Fault{Kind: http1.TooLarge}
	}
	return nil
}

// field reads one field and returns what comes after it.
func (d *Decoder) field(b *Block, p []byte) (rest []byte, ok bool) {
	bits, insert := 4, false
	switch c := p[0]; {
	case c&0x80 != 0:
		bits = 7
	case c&0x40 != 0:
		bits, insert = 6, true
	case c&0x20 != 0:
		return nil, false // a change of size in the middle
	}
	i, p, ok := integer(p, bits)
	if !ok {
		return nil, false
	}
	var f http1.Field
	dynamic := false
	if i > 0 || bits == 7 {
		if f, dynamic, ok = d.at(i); !ok {
			return nil, false
		}
	}
	if bits != 7 {
		if i == 0 {
			if f.Name, p, ok = b.text(p); !ok {
				return nil, false
			}
		}
		if f.Value, p, ok = b.text(p); !ok {
			return nil, false
		}
	}
	if dynamic {
		b.Stateless, b.Again = false, false
	}
	if insert && d.most > 0 {
		b.Again = false
		d.insert(f)
	}
	if b.size += len(f.Name) + len(f.Value) + fieldOverhead; b.size <= MaxList && len(b.Fields) <= http1.MaxFields {
		b.Fields = append(b.Fields, f)
	}
	return p, true
}

// text reads a string.
func (b *Block) text(p []byte) (text, rest []byte, ok bool) {
	if len(p) == 0 {
		return nil, nil, false
	}
	huffman := p[0]&0x80 != 0
	n, p, ok := integer(p, 7)
	if !ok || n > len(p) {
		return nil, nil, false
	}
	if text, rest = p[:n:n], p[n:]; !huffman {
		return text, rest, true
	}
	if cap(b.arena)-len(b.arena) < 2*n { // no code is shorter than five bits
		b.arena = make([]byte, 0, max(2*n, 512)) // what is in the old one stays there
	}
	from := len(b.arena)
	b.arena, ok = appendHuffman(b.arena, text)
	return b.arena[from:len(b.arena):len(b.arena)], rest, ok
}

// insert makes a field the newest of the table.
func (d *Decoder) insert(f http1.Field) {
	both := append(append(make([]byte, 0, len(f.Name)+len(f.Value)), f.Name...), f.Value...)
	e := tableEntry{both[:len(f.Name):len(f.Name)], both[len(f.Name):]}
	d.evict(e.size())
	if e.size() <= d.most {
		d.table = append(d.table, e)
		d.used += e.size()
	}
}

// evict makes room for so many bytes.
func (d *Decoder) evict(room int) {
	n := 0
	for ; n < len(d.table) && d.used+room > d.most; n++ {
		d.used -= d.table[n].size()
	}
	d.table = append(d.table[:0], d.table[n:]...)
}

// integer reads a number with a prefix of so many bits (RFC 7541, 5.1), up to 2^21: none here is larger.
func integer(p []byte, bits int) (n int, rest []byte, ok bool) {
	most := 1<<bits - 1
	if n = int(p[0]) & most; n < most {
		return n, p[1:], true
	}
	p = p[1:]
	for shift := 0; shift <= 21 && shift/7 < len(p); shift += 7 {
		c := p[shift/7]
		n += int(c&0x7f) << shift
		if c&0x80 == 0 {
			return n, p[shift/7+1:], n <= 1<<21
		}
	}
	return 0, nil, false
}

// AppendField appends a field to a block, as a literal that nobody is to remember.
func AppendField(dst []byte, name, value string) []byte {
	dst = appendText(append(dst, 0x10), name)
	return appendText(dst, value)
}

// AppendFields writes a block anew, so that it means the same to everybody.
func (b *Block) AppendFields(dst []byte) []byte {
	for _, f := range b.Fields {
		dst = appendText(append(dst, 0x10), f.Name)
		dst = appendText(dst, f.Value)
	}
	return dst
}

func appendText[T string | []byte](dst []byte, text T) []byte {
	n := len(text)
	if n < 127 {
		return append(append(dst, byte(n)), text...)
	}
	dst = append(dst, 127)
	for n -= 127; n >= 128; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(append(dst, byte(n)), text...)
}

// NoTable is what says, at the beginning of a block, that its sender has no table.
var NoTable = []byte{0x20}
