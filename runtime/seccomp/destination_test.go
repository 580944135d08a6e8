package seccomp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func sockaddr(family uint16, port uint16, rest ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, family)
	return append(binary.BigEndian.AppendUint16(b, port), rest...)
}

func TestParseSockaddr(t *testing.T) {
	six := netip.MustParseAddr("2001:db8::1").As16()
	mapped := netip.MustParseAddr("::ffff:192.0.2.1").As16()
	for want, raw := range map[string][]byte{
		"192.0.2.1:80":      sockaddr(unix.AF_INET, 80, 192, 0, 2, 1),
		"192.0.2.1:81":      append(sockaddr(unix.AF_INET6, 81, 0, 0, 0, 0), append(mapped[:], 0, 0, 0, 0)...),
		"[2001:db8::1]:443": append(sockaddr(unix.AF_INET6, 443, 9, 9, 9, 9), append(six[:], 7, 0, 0, 0)...),
	} {
		if got, ok := parseSockaddr(raw); !ok || got.String() != want {
			t.Errorf("%s, %t, want %s", got, ok, want)
		}
	}
	for _, raw := range [][]byte{nil, {1}, sockaddr(unix.AF_INET, 80), sockaddr(unix.AF_UNIX, 0, 1, 2, 3, 4), sockaddr(unix.AF_INET6, 80, 1, 2, 3, 4, 5)} {
		if got, ok := parseSockaddr(raw); ok {
			t.Errorf("%x was read as %s", raw, got)
		}
	}
}

func TestDestinationsAreBounded(t *testing.T) {
	var d tagged
	for i := range 2 * maxTagged {
		d.add(fmt.Sprintf("tcp/192.0.2.1:%d", i))
		d.add("tcp/192.0.2.1:0")
	}
	var c Counts
	c.Destinations, c.DestinationsLost = d.collect()
	if len(c.Destinations) != maxTagged || c.DestinationsLost != maxTagged || c.Destinations["tcp/192.0.2.1:0"] != 2*maxTagged+1 {
		t.Errorf("%d destinations, %d lost, %d to the first", len(c.Destinations), c.DestinationsLost, c.Destinations["tcp/192.0.2.1:0"])
	}
	c.Destinations["x"] = 1
	if d.counts["x"] != 0 {
		t.Error("the caller got the map itself")
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b budget
		taken := func() (n int) {
			for range 3 * destinationsPerSecond {
				if b.take(time.Now()) {
					n++
				}
			}
			return n
		}
		if n := taken(); n != destinationsPerSecond {
			t.Errorf("%d in the first second", n)
		}
		time.Sleep(time.Second)
		if n := taken(); n != destinationsPerSecond {
			t.Errorf("%d in the next second", n)
		}
	})
}
