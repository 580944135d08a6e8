package hello

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"
)

// capture is what a client of crypto/tls sends first.
func capture(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(near, c).Handshake() // it has no server
	}()
	b := make([]byte, 64<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	<-done
	return b[:n]
}

// records splits a ClientHello over records of so many bytes.
func records(b []byte, size int) (out []byte) {
	for body := b[recordHeader:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(out, b[:3]...)
		out = binary.BigEndian.AppendUint16(out, uint16(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	return out
}

func TestHello(t *testing.T) {
	for _, c := range []*tls.Config{
		{ServerName: "Example.COM.", NextProtos: []string{"h2", "http/1.1"}},
		{ServerName: "example.com", MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
		{ServerName: "example.com", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}, NextProtos: []string{"h2", "http/1.1"}},
	} {
		b := capture(t, c)
		for _, split := range [][]byte{b, records(b, 1), records(b, 100), append(slices.Clone(b), "more"...)} {
			h, err := Parse(split)
			if err != nil || h.Name != "example.com" || !slices.Equal(h.Protocols, c.NextProtos) || h.Encrypted {
				t.Errorf("%+v: %v", h, err)
			}
		}
		split := records(b, 100)
		for n := range len(split) {
			if _, err := Parse(split[:n]); !errors.Is(err, ErrShort) {
				t.Fatalf("%d of %d bytes: %v", n, len(split), err)
			}
			if n > 0 && !Begins(split[:n]) {
				t.Fatalf("%d bytes do not begin one", n)
			}
		}
	}
	if h, err := Parse(capture(t, &tls.Config{InsecureSkipVerify: true, ServerName: "192.0.2.1"})); err != nil || h.Name != "" {
		t.Errorf("%+v, %v", h, err)
	}
}

// build makes a ClientHello with these extensions.
func build(extensions ...byte) []byte {
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 0x01, 1, 0)
	body = binary.BigEndian.AppendUint16(body, uint16(len(extensions)))
	body = append(body, extensions...)
	message := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
}

// TestVersions: servers do not go by the version of a record, so it hides nothing. What is no ClientHello is none by its sixth byte.
func TestVersions(t *testing.T) {
	b := capture(t, &tls.Config{ServerName: "example.com"})
	for _, version := range []uint16{0x0300, 0x0303, 0x0305, 0x03ff, 0x0000, 0x0fff} {
		binary.BigEndian.PutUint16(b[1:], version)
		for _, split := range [][]byte{b, records(b, 1)} {
			if h, err := Parse(split); err != nil || h.Name != "example.com" || !Begins(split) {
				t.Errorf("%#x: %+v, %v", version, h, err)
			}
		}
	}
	for _, other := range []string{"\x16\x10\x01", "\x17", "", "\x16\x03\x01\x00\x05\x02", "\x16\x03\x01\x40\x01\x01", "\x16\x03\x00\x00\x01\x00\x00\x00"} {
		if Begins([]byte(other)) {
			t.Errorf("%q begins one", other)
		}
	}
	for _, maybe := range []string{"\x16", "\x16\x03", "\x16\x0f\x00\x00\x01", "\x16\x03\x01\x00\x00\x16"} {
		if !Begins([]byte(maybe)) {
			t.Errorf("%q does not begin one", maybe)
		}
	}
}

func TestMalformed(t *testing.T) {
	name := []byte{0, 0, 0, 6, 0, 4, 0, 0, 1, 'a'}
	if h, err := Parse(build(name...)); err != nil || h.Name != "a" {
		t.Fatal(h, err)
	}
	if h, err := Parse(build(0xfe, 0x0d, 0, 1, 0)); err != nil || !h.Encrypted {
		t.Error(h, err)
	}
	for what, b := range map[string][]byte{
		"two names":               build(0, 0, 0, 10, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b'),
		"two name extensions":     build(append(name, name...)...),
		"another kind of name":    build(0, 0, 0, 6, 0, 4, 1, 0, 1, 'a'),
		"empty name":              build(0, 0, 0, 5, 0, 3, 0, 0, 0),
		"name with a space":       build(0, 0, 0, 6, 0, 4, 0, 0, 1, ' '),
		"empty list":              build(0, 0, 0, 2, 0, 0),
		"trailing bytes":          build(0, 0, 0, 7, 0, 4, 0, 0, 1, 'a', 0),
		"short extension":         build(0, 0, 0, 9, 0),
		"empty protocol":          build(0, 16, 0, 3, 0, 1, 0),
		"protocols cut":           build(0, 16, 0, 3, 0, 9, 1),
		"empty record":            {22, 3, 1, 0, 0, 0},
		"huge record":             {22, 3, 1, 0xff, 0xff, 0},
		"another record":          {23, 3, 1, 0, 1, 0},
		"another message":         {22, 3, 1, 0, 4, 2, 0, 0, 0},
		"huge message":            {22, 3, 1, 0, 4, 1, 0xff, 0, 0},
		"another record after it": append(records(build(), 10)[:15], 23, 3, 3, 0, 1, 0),
		"body cut":                {22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3},
	} {
		if h, err := Parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", what, h, err)
		}
	}
	if h, err := Parse(build()[:48]); !errors.Is(err, ErrShort) {
		t.Error(h, err)
	}
	many := records(append(make([]byte, recordHeader), append([]byte{1, 0, 0xff, 0xff}, make([]byte, 70000)...)...), 1)
	copy(many, []byte{22, 3, 1})
	for i := 0; i < len(many); i += 6 {
		copy(many[i:], []byte{22, 3, 1, 0, 1})
	}
	if _, err := Parse(many); !errors.Is(err, ErrMalformed) {
		t.Error("a ClientHello of endless small records", err)
	}
}

// FuzzHello: nothing in a ClientHello breaks the parser, and splitting it over records changes nothing.
func FuzzHello(f *testing.F) {
	f.Add(build(0, 0, 0, 6, 0, 4, 0, 0, 1, 'a', 0, 16, 0, 5, 0, 3, 2, 'h', '2'), 3)
	f.Add(capture(f, &tls.Config{ServerName: "example.com"}), 7)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		h, err := Parse(b)
		if err != nil || len(b) < recordHeader {
			return
		}
		one := int(binary.BigEndian.Uint16(b[3:]))
		if len(b) != recordHeader+one {
			return
		}
		again, err := Parse(records(b, max(1, size%1000)))
		if err != nil && len(b) < 1000 || err == nil && (again.Name != h.Name || !slices.Equal(again.Protocols, h.Protocols)) {
			t.Errorf("%+v, split %+v, %v", h, again, err)
		}
	})
}
