package channel

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// FuzzGarbage reads anything that did not come from the peer: none of it gets through.
func FuzzGarbage(f *testing.F) {
	for _, r := range records(f, "one", "two") {
		f.Add(r[1:])
		f.Add(append([]byte{Version, 0, 0, 3}, r...))
	}
	f.Add([]byte{Version, 0, 0x40, 0x01})
	other := &wire{}
	_, _ = New(other, Config{Key: key(9), End: Agent}).Write([]byte("hello"))
	f.Add(other.out.Bytes())
	genuine := records(f, "one")[0]
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, genuine[:headerSize]) {
			return // the fuzzer may not know the key, but it was shown records
		}
		got, err := read(data)
		if got != "" {
			t.Errorf("%q got through: %v", got, err)
		}
		var fault *Fault
		if len(data) > 0 && !errors.As(err, &fault) {
			t.Errorf("no fault: %v", err)
		}
	})
}

// FuzzTampering sends what the peer wrote in an order, with losses, repetitions and changes that the fuzzer chooses: what
// is read is a beginning of what was written, and anything else ends in a fault.
func FuzzTampering(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, uint16(0), byte(0))
	f.Add([]byte{0, 0}, uint16(0), byte(0))
	f.Add([]byte{1, 0}, uint16(0), byte(0))
	f.Add([]byte{0, 1, 2}, uint16(30), byte(1))
	f.Add([]byte{0, 2}, uint16(3), byte(0x80))
	f.Add([]byte{0, 1, 3, 232}, uint16(20), byte(0))
	payloads := []string{"one", "two", "three", "four"} // an empty write makes no record
	written := records(f, payloads...)
	f.Fuzz(func(t *testing.T, order []byte, at uint16, change byte) {
		if len(order) > 64 {
			return
		}
		var data []byte
		for _, i := range order {
			data = append(data, written[int(i)%len(written)]...)
		}
		altered := len(data)
		if change != 0 && len(data) > 0 {
			altered = int(at) % len(data)
			data[altered] ^= change
		}
		// What is to come through: records in order, up to the first that is not the next or is altered.
		want, offset, whole := "", 0, true
		for n, i := range order {
			r := written[int(i)%len(written)]
			if n >= len(written) || int(i)%len(written) != n || altered < offset+len(r) {
				whole = false
				break
			}
			want += payloads[n]
			offset += len(r)
		}
		got, err := read(data)
		var fault *Fault
		if got != want || (err == nil) != whole || err != nil && !errors.As(err, &fault) {
			t.Errorf("read %q, want %q, whole %v: %v", got, want, whole, err)
		}
	})
}

// FuzzSplits delivers records in pieces: where a stream is cut between reads makes no difference.
func FuzzSplits(f *testing.F) {
	f.Add([]byte("some text that is written"), []byte{1, 2, 3})
	f.Add(bytes.Repeat([]byte("x"), 40_000), []byte{255})
	f.Fuzz(func(t *testing.T, text, pieces []byte) {
		w := &wire{}
		a := agent(w)
		if _, err := a.Write(text); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(host(&wire{in: &inPieces{data: w.out.Bytes(), sizes: pieces}}))
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("got %d bytes of %d: %v", len(got), len(text), err)
		}
	})
}

// inPieces returns data in pieces of the given sizes, over and over.
type inPieces struct {
	data, sizes []byte
	next        int
}

func (p *inPieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := len(b)
	if len(p.sizes) > 0 {
		n = min(n, int(p.sizes[p.next%len(p.sizes)])+1)
		p.next++
	}
	n = copy(b[:n], p.data)
	p.data = p.data[n:]
	return n, nil
}
