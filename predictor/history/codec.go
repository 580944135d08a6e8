package history

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// writer writes the primitives of the snapshot format: unsigned varints,
// strings with their length before them, and little endian floats. The first error sticks.
type writer struct {
	w   io.Writer
	n   int64
	err error
	buf []byte
}

func (w *writer) flush() {
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(w.buf)
		w.n += int64(n)
	}
	w.buf = w.buf[:0]
}

func (w *writer) uint(v uint64) {
	w.buf = binary.AppendUvarint(w.buf, v)
	if len(w.buf) > 1<<15 {
		w.flush()
	}
}

func (w *writer) string(s string) {
	w.uint(uint64(len(s)))
	w.buf = append(w.buf, s...)
}

func (w *writer) float(f float32) {
	w.buf = binary.LittleEndian.AppendUint32(w.buf, math.Float32bits(f))
}

func (w *writer) double(f float64) {
	w.buf = binary.LittleEndian.AppendUint64(w.buf, math.Float64bits(f))
}

var errTooMany = errors.New("a count beyond its bound")

// reader reads what writer wrote. The first error sticks; after it everything is zero.
type reader struct {
	r       *bufio.Reader
	err     error
	version uint64 // of the snapshot that is read
	number  [8]byte
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *reader) uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(r.r)
	if err != nil {
		r.fail(err)
		return 0
	}
	return v
}

// count reads a number of at most most, so that hostile input cannot make
// anyone allocate or loop without bound.
func (r *reader) count(most int) int {
	v := r.uint()
	if v > uint64(most) {
		r.fail(fmt.Errorf("%w: %d of at most %d", errTooMany, v, most))
		return 0
	}
	return int(v)
}

func (r *reader) uint32() uint32 { return uint32(r.count(math.MaxUint32)) }

// fill reads as much as b has room for.
func (r *reader) fill(b []byte) []byte {
	if r.err == nil {
		_, err := io.ReadFull(r.r, b)
		if err == nil {
			return b
		}
		r.fail(err)
	}
	clear(b)
	return b
}

func (r *reader) string(most int) string { return string(r.fill(make([]byte, r.count(most)))) }

func (r *reader) float() float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(r.fill(r.number[:4])))
}

func (r *reader) double() float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(r.fill(r.number[:])))
}
