package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The binary form, all little-endian:
//
//	"FFST" version
//	twice (native, foreign): count:u16, then count entries in order of nr:
//	  nr:u16 verdict flags otherwise errno:u16 outside:u16 clauses:u8, then each:
//	    outcome conditions:u8, then each: arg op value:u64 value2:u64
//
// It has one spelling per table, is read by the same or an older kernel ABI only
// (numbers are the machine's own), and every count is bounded before it is used.
const (
	tableMagic   = "FFST"
	tableVersion = 1

	maxTableBytes   = 256 << 10
	maxSyscallNr    = 1023 // above every number Linux has given so far
	maxClauses      = 128
	minEntryBytes   = 10
	conditionsBytes = 18
)

// ErrBadTable is returned by Table.UnmarshalBinary for anything that
// MarshalBinary of this version does not write.
var ErrBadTable = errors.New("malformed seccomp table")

// MarshalBinary writes the table in its versioned binary form.
func (t *Table) MarshalBinary() ([]byte, error) {
	b := append([]byte(tableMagic), tableVersion)
	for _, entries := range [][]entry{t.native, t.foreign} {
		b = appendEntries(b, entries)
	}
	if len(b) > maxTableBytes {
		return nil, fmt.Errorf("seccomp table of %d bytes is larger than %d", len(b), maxTableBytes)
	}
	return b, nil
}

func appendEntries(b []byte, entries []entry) []byte {
	at, count := len(b), uint16(0)
	b = append(b, 0, 0)
	for nr := range entries {
		e := &entries[nr]
		if e.flags&flagPresent == 0 {
			continue
		}
		count++
		b = binary.LittleEndian.AppendUint16(b, uint16(nr))
		b = append(b, byte(e.verdict), e.flags, byte(e.otherwise))
		b = binary.LittleEndian.AppendUint16(b, e.errno)
		b = binary.LittleEndian.AppendUint16(b, e.outside)
		b = append(b, byte(len(e.clauses)))
		for _, c := range e.clauses {
			b = append(b, byte(c.outcome), byte(len(c.conditions)))
			for _, k := range c.conditions {
				b = append(b, k.arg, byte(k.op))
				b = binary.LittleEndian.AppendUint64(b, k.value)
				b = binary.LittleEndian.AppendUint64(b, k.value2)
			}
		}
	}
	binary.LittleEndian.PutUint16(b[at:], count)
	return b
}

// UnmarshalBinary replaces the table by the one in data. On an error, which is
// ErrBadTable, the table is left as it was.
func (t *Table) UnmarshalBinary(data []byte) error {
	if len(data) > maxTableBytes {
		return fmt.Errorf("%w: %d bytes are more than %d", ErrBadTable, len(data), maxTableBytes)
	}
	r := tableReader{rest: data}
	if string(r.take(len(tableMagic))) != tableMagic {
		return fmt.Errorf("%w: no magic", ErrBadTable)
	}
	if v := r.byte(); v != tableVersion {
		return fmt.Errorf("%w: version %d, want %d", ErrBadTable, v, tableVersion)
	}
	var read Table
	read.native, read.foreign = r.entries(), r.entries()
	if r.failed || len(r.rest) != 0 {
		return fmt.Errorf("%w: stopped %d bytes before the end", ErrBadTable, len(r.rest))
	}
	read.bound()
	*t = read
	return nil
}

// tableReader reads from the front of rest. After a failure it yields zeros only.
type tableReader struct {
	rest   []byte
	failed bool
}

func (r *tableReader) take(n int) []byte {
	if r.failed || len(r.rest) < n {
		r.failed = true
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *tableReader) byte() byte  { return r.take(1)[0] }
func (r *tableReader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *tableReader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// check fails the reader unless ok.
func (r *tableReader) check(ok bool) { r.failed = r.failed || !ok }

func (r *tableReader) entries() []entry {
	count := int(r.u16())
	r.check(count*minEntryBytes <= len(r.rest) && count <= maxSyscallNr+1)
	var entries []entry
	for i := 0; i < count && !r.failed; i++ {
		nr := int(r.u16())
		r.check(nr <= maxSyscallNr && nr >= len(entries))
		if r.failed {
			break
		}
		entries = append(entries, make([]entry, nr-len(entries))...)
		entries = append(entries, r.entry())
	}
	return entries
}

func (r *tableReader) entry() entry {
	e := entry{verdict: Verdict(r.byte()), flags: r.byte(), otherwise: outcome(r.byte()), errno: r.u16(), outside: r.u16()}
	r.check(e.verdict <= Watch && e.flags&flagPresent != 0 && e.flags < flagLast<<1 && e.otherwise <= outcomeLast)
	r.check(validErrno(e.errno) && validErrno(e.outside))
	// A fixed call may not be allowed by a damaged or forged table.
	r.check(e.flags&flagFixed == 0 || e.verdict <= Deny)
	clauses := int(r.byte())
	r.check(clauses <= maxClauses)
	for i := 0; i < clauses && !r.failed; i++ {
		e.clauses = append(e.clauses, r.clause())
	}
	return e
}

// validErrno keeps a denial a denial: errno 0 would be success, and the kernel
// takes only what fits an error return.
func validErrno(errno uint16) bool { return errno > 0 && errno < 4096 }

func (r *tableReader) clause() clause {
	c := clause{outcome: outcome(r.byte())}
	n := int(r.byte())
	r.check(c.outcome <= outcomeLast && n > 0 && n <= maxArgs && n*conditionsBytes <= len(r.rest))
	for i := 0; i < n && !r.failed; i++ {
		k := condition{arg: r.byte(), op: operator(r.byte()), value: r.u64(), value2: r.u64()}
		r.check(k.arg < maxArgs && k.op >= opEqual && k.op <= opLast)
		c.conditions = append(c.conditions, k)
	}
	return c
}
