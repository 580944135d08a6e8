package gate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/asm"
)

// TestLayout fails when programs or structures change and layout does not: a process of the version before would open what it
// does not understand.
func TestLayout(t *testing.T) {
	h := sha256.New()
	m := handles{1, 2, 3, 4, 5, 6, 7, 8}
	for _, code := range []asm.Instructions{egress(m), ingress(m), sockops(m), frames(m)} {
		for _, i := range code {
			_ = binary.Write(h, binary.LittleEndian, []int64{int64(i.OpCode), int64(i.Dst), int64(i.Src), int64(i.Offset), i.Constant})
		}
	}
	const want = "bf0f28bd1fc68eb6"
	if got := hex.EncodeToString(h.Sum(nil)[:8]); got != want {
		t.Errorf("layout %d had programs %s and has %s now: raise layout, and write the new sum here", layout, want, got)
	}
	if unsafe.Sizeof(state{}) != stateSize || unsafe.Sizeof(event{}) != eventSize || unsafe.Sizeof(lpmKey{}) != keySize || unsafe.Sizeof(setKey{}) != setKeySize {
		t.Error("the structures are not as long as the programs think")
	}
}

func TestSet(t *testing.T) {
	r := Rules{
		Block: prefixes("10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"),
		Allow: prefixes("10.2.0.0/16", "0.0.0.0/0", "2001:db8:1::/48", "2001::/16", "::ffff:192.0.2.0/120"),
	}
	got, err := r.set()
	if err != nil {
		t.Fatal(err)
	}
	want := map[lpmKey]uint32{}
	for _, p := range prefixes("10.0.0.0/8", "2001:db8::/32") {
		want[lpmKeyOf(p)] = verdictBlock
	}
	for _, p := range prefixes("0.0.0.0/0", "2001::/16") {
		want[lpmKeyOf(p)] = verdictAllow
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d: %v", len(got), len(want), got)
	}
	for _, e := range got {
		if want[e.key] != e.verdict {
			t.Errorf("%v is %d, want %d", e.key, e.verdict, want[e.key])
		}
	}
	if _, err := (Rules{Allow: make([]netip.Prefix, maxSet+1)}).set(); err == nil {
		t.Error("a set that is too large was taken")
	}
}

// FuzzSet: in whatever way prefixes are allowed and blocked, the trie's longest match says blocked if and only if a blocked
// prefix holds the address, and else allowed if and only if an allowed one does.
func FuzzSet(f *testing.F) {
	f.Add([]byte{4, 10, 0, 8, 4, 10, 1, 16, 6, 32, 1, 3}, []byte{10, 1, 2, 3})
	f.Fuzz(func(t *testing.T, list, addr []byte) {
		if len(addr) != 4 && len(addr) != 16 {
			return
		}
		a, _ := netip.AddrFromSlice(addr)
		a = a.Unmap()
		var r Rules
		for i := 0; i+4 <= len(list) && i < 400; i += 4 {
			p := prefixFrom(list[i : i+4])
			if list[i]&1 == 0 {
				r.Allow = append(r.Allow, p)
			} else {
				r.Block = append(r.Block, p)
			}
		}
		entries, err := r.set()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := longest(entries, a), verdict(r, a); got != want {
			t.Errorf("%s: %d, want %d, allow %v, block %v", a, got, want, r.Allow, r.Block)
		}
	})
}

// prefixFrom makes a prefix of four bytes: family, two bytes of address, length.
func prefixFrom(b []byte) netip.Prefix {
	a := netip.AddrFrom4([4]byte{b[1], b[2]})
	if b[0]&2 != 0 {
		a = netip.AddrFrom16([16]byte{b[1], b[2]})
	}
	if b[0]&4 != 0 {
		a = netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: b[1], 13: b[2]})
	}
	return netip.PrefixFrom(a, int(b[3])%(a.BitLen()+1))
}

// longest is what the trie answers.
func longest(entries []entry, a netip.Addr) (v uint32) {
	key, best := lpmKeyOf(netip.PrefixFrom(a, a.BitLen())), -1
	for _, e := range entries {
		if e.key.Family == key.Family && int(e.key.Bits) > best && sameBits(e.key.Addr, key.Addr, int(e.key.Bits)-32) {
			best, v = int(e.key.Bits), e.verdict
		}
	}
	return v
}

func sameBits(a, b [16]byte, n int) bool {
	for i := range n {
		if (a[i/8]^b[i/8])>>(7-i%8)&1 != 0 {
			return false
		}
	}
	return true
}

func verdict(r Rules, a netip.Addr) uint32 {
	for _, list := range []struct {
		prefixes []netip.Prefix
		verdict  uint32
	}{{r.Block, verdictBlock}, {r.Allow, verdictAllow}} {
		for _, p := range list.prefixes {
			if plain(p).Contains(a) {
				return list.verdict
			}
		}
	}
	return 0
}

func TestNumbers(t *testing.T) {
	for in, n := range map[string]int{"1\n22\n": 2, "": 0, "1\n2": 0, "0\n": 0, "x\n": 0, "1\n-2\n": 0, "4294967296\n": 0} {
		if got := parseNumbers(in); len(got) != n {
			t.Errorf("%q: %v, want %d numbers", in, got, n)
		}
	}
}

func TestEvents(t *testing.T) {
	b := make([]byte, eventSize)
	binary.NativeEndian.PutUint64(b[eventID:], 42)
	copy(b[eventAddr:], []byte{10: 0xff, 11: 0xff, 12: 192, 13: 0, 14: 2, 15: 1})
	b[eventPort+1], b[eventProto], b[eventKind] = 80, protoTCP, byte(RefusedSet)
	id, e, ok := parseEvent(b)
	if !ok || id != 42 || e.Destination() != "tcp/192.0.2.1:80" || !e.Kind.Refused() || e.Kind.String() != "blocked" {
		t.Errorf("%d %+v %v", id, e, ok)
	}
	for proto, want := range map[uint8]string{protoUDP: "udp/192.0.2.1:80", 1: "icmp/192.0.2.1", 132: "ip132/192.0.2.1"} {
		if e.Proto = proto; e.Destination() != want {
			t.Errorf("%s, want %s", e.Destination(), want)
		}
	}
	b[eventKind] = 99
	if _, _, ok := parseEvent(b); ok || Kind(99).String() != "kind(99)" {
		t.Error("an unknown kind was taken")
	}
	if _, _, ok := parseEvent(b[:10]); ok {
		t.Error("half an event was taken")
	}
}
