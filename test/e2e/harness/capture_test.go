package harness

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/root"
)

// segment is an IPv4 packet with a TCP header of five words.
func segment(payload string) []byte {
	b := append(make([]byte, 40), payload...)
	b[0], b[9], b[32] = 0x45, 6, 5<<4
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], []byte{10, 8, 0, 2, 192, 0, 2, 1})
	binary.BigEndian.PutUint16(b[20:], 40000)
	binary.BigEndian.PutUint16(b[22:], 8080)
	return b
}

func TestParseTCP(t *testing.T) {
	p, ok := parseTCP(append(segment("hello"), "padding"...))
	if !ok || p.Source.String() != "10.8.0.2:40000" || p.Destination.String() != "192.0.2.1:8080" || string(p.Payload) != "hello" {
		t.Errorf("%+v, %t", p, ok)
	}
	for what, spoil := range map[string]func([]byte) []byte{
		"nothing":                 func([]byte) []byte { return nil },
		"IPv6":                    func(b []byte) []byte { b[0] = 0x65; return b },
		"UDP":                     func(b []byte) []byte { b[9] = 17; return b },
		"a later fragment":        func(b []byte) []byte { b[7] = 1; return b },
		"cut short":               func(b []byte) []byte { return b[:len(b)-1] },
		"a short header of IP":    func(b []byte) []byte { b[0] = 0x44; return b },
		"a short header of TCP":   func(b []byte) []byte { b[32] = 4 << 4; return b },
		"a header beyond its end": func(b []byte) []byte { b[32] = 15 << 4; return b },
		"no room for TCP":         func(b []byte) []byte { b[3] = 30; return b },
	} {
		if p, ok := parseTCP(spoil(segment("hello"))); ok {
			t.Errorf("%s: %+v", what, p)
		}
	}
}

// A capture sees what comes in by its device, and nothing else.
func TestRootCapture(t *testing.T) {
	root.Test(t)
	w, err := NewWorld()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Capture("none"); err == nil || !strings.Contains(err.Error(), "watch none") {
		t.Errorf("of a device that is not there: %v", err)
	}
	c, err := w.Capture("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Echo("4242"); err != nil {
		t.Fatal(err)
	}
	if err := w.Do(func() error {
		conn, err := net.DialTimeout("tcp", "192.0.2.1:4242", 10*time.Second)
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte("hello"))
		_ = conn.Close()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(pollInterval) {
		packets, seen := c.Packets()
		for _, p := range packets {
			if p.Destination.String() == "192.0.2.1:4242" && string(p.Payload) == "hello" && seen >= len(packets) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d packets, none with the text: %+v", seen, packets)
		}
	}
}
