package object

import (
	"encoding/binary"
	"testing"
)

// tiny is a hand-made static program: one segment, code at its end.
func tiny(code []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], machineX86)
	le.PutUint64(b[24:], 0x400000+64+56)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	p := b[64:]
	le.PutUint32(p, 1)
	le.PutUint32(p[4:], 5)
	le.PutUint64(p[16:], 0x400000)
	le.PutUint64(p[32:], uint64(64+56+len(code)))
	le.PutUint64(p[40:], uint64(64+56+len(code)))
	return append(b, code...)
}

func TestTiny(t *testing.T) {
	o, err := Read(tiny([]byte{0xb8, 60, 0, 0, 0, 0x0f, 0x05}))
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Roots) == 0 || len(o.Numbers[o.Roots[0]]) != 1 || o.Numbers[o.Roots[0]][0] != 60 {
		t.Errorf("%+v", o)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(tiny([]byte{0xb8, 60, 0, 0, 0, 0x0f, 0x05}))
	f.Add(tiny([]byte{0x31, 0xff, 0x6a, 0x27, 0x58, 0x0f, 0x05, 0xeb, 0xfe}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		o, err := Read(b)
		if err != nil {
			return
		}
		for _, e := range o.Edges {
			if e >= 0 && int(e) >= len(o.Starts) || e < 0 && int(^e) >= len(o.Imports) {
				t.Fatalf("edge %d leads nowhere", e)
			}
		}
		for _, e := range o.Roots {
			if e >= 0 && int(e) >= len(o.Starts) || e < 0 && int(^e) >= len(o.Imports) {
				t.Fatalf("root %d leads nowhere", e)
			}
		}
		if len(o.First) != len(o.Starts)+1 {
			t.Fatalf("%d functions, %d rows of edges", len(o.Starts), len(o.First))
		}
	})
}
