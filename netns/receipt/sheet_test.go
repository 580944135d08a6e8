package receipt

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

func sheet() *Sheet {
	at := time.Unix(1_800_000_000, 5)
	return &Sheet{
		Client: "node-1", Nonce: Nonce{1, 2}, At: at, Since: at.Add(-time.Hour), After: 7, Last: 12, More: true,
		Receipts: []Receipt{
			{Serial: 8, Lease: [16]byte{3}, Protocol: flow.TCP, Peer: netip.MustParseAddrPort("10.8.0.2:1000"), Server: netip.MustParseAddrPort("198.51.100.1:443"),
				Began: at.Add(-time.Minute), Up: Count{900, 9}, Down: Count{5000, 7}},
			{Serial: 12, Lease: [16]byte{4}, Protocol: 17, Peer: netip.MustParseAddrPort("[fd08::2]:1000"), Server: netip.MustParseAddrPort("[2001:db8::1]:53"),
				Began: at.Add(-time.Second), Up: Count{90, 1}, Down: Count{150, 1}, Final: true},
		},
	}
}

func TestSheet(t *testing.T) {
	want := sheet().Append(nil)
	got, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Append(nil), want) || len(got.Receipts) != 2 || got.Receipts[1] != sheet().Receipts[1] || got.Client != "node-1" || !got.More {
		t.Errorf("read as %+v", got)
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"longer":    func(b []byte) []byte { return append(b, 0) },
		"magic":     func(b []byte) []byte { b[0]++; return b },
		"no client": func(b []byte) []byte { b[len(magic)] = 0; return b },
		"client":    func(b []byte) []byte { b[len(magic)] = 254; return b },
		"order":     func(b []byte) []byte { b[len(b)-2*size+7] = 13; return b },
		"last":      func(b []byte) []byte { b[headSize+len("node-1")-4] = 11; return b },
		"count":     func(b []byte) []byte { b[headSize+len("node-1")-1]++; return b },
		"more":      func(b []byte) []byte { b[headSize+len("node-1")-3] = 2; return b },
		"flags":     func(b []byte) []byte { b[len(b)-size+25] |= 4; return b },
		"family":    func(b []byte) []byte { b[len(b)-size+25] ^= flagSix; return b },
		"nothing new": func([]byte) []byte {
			return (&Sheet{Client: "a", After: 3, Last: 2, At: time.Unix(0, 0), Since: time.Unix(0, 0)}).Append(nil)
		},
	} {
		if s, err := Parse(change(bytes.Clone(want))); err == nil {
			t.Errorf("%s: read as %+v", name, s)
		}
	}
}

func TestSigned(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	strange, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed := sheet().Sign(private)
	asked := Question{Nonce: Nonce{1, 2}, After: 7}
	if _, err := signed.Open(public, asked); err != nil {
		t.Error(err)
	}
	for name, open := range map[string]func() (*Sheet, error){
		"another key":   func() (*Sheet, error) { return signed.Open(strange, asked) },
		"no key":        func() (*Sheet, error) { return signed.Open(nil, asked) },
		"replayed":      func() (*Sheet, error) { return signed.Open(public, Question{Nonce: Nonce{1, 3}, After: 7}) },
		"other serials": func() (*Sheet, error) { return signed.Open(public, Question{Nonce: Nonce{1, 2}, After: 6}) },
		"changed": func() (*Sheet, error) {
			s := signed
			s.Sheet = bytes.Clone(s.Sheet)
			s.Sheet[len(s.Sheet)-1]++
			return s.Open(public, asked)
		},
		"signed nonsense": func() (*Sheet, error) {
			s := Signed{Sheet: []byte("nonsense"), Signature: ed25519.Sign(private, []byte("nonsense"))}
			return s.Open(public, asked)
		},
	} {
		if s, err := open(); !errors.Is(err, ErrForged) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sheet().Append(nil))
	f.Add((&Sheet{Client: "a", At: time.Unix(0, 0), Since: time.Unix(0, 0)}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		if again := s.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("read as %+v, which is written as\n%x, not\n%x", s, again, b)
		}
	})
}
