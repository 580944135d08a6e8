package marks

import "testing"

func TestNumbersAreApart(t *testing.T) {
	seen := map[uint32]bool{0: true, Direct: true, Inbound: true}
	tables := map[int]bool{Trap: true, 0: true, 253: true, 254: true, 255: true}
	for n := range Tunnels {
		m := Tunnel(n)
		if got, ok := Index(m); !ok || got != n || seen[m] || tables[Table(n)] || len(Device(n)) > 15 {
			t.Errorf("tunnel %d: mark %#x, index %d %v, table %#x, device %s", n, m, got, ok, Table(n), Device(n))
		}
		seen[m], tables[Table(n)] = true, true
	}
	for _, m := range []uint32{0, Direct, Inbound, Tunnel(Tunnels), Tunnel(0) - 1, 0xffffffff} {
		if n, ok := Index(m); ok {
			t.Errorf("mark %#x is tunnel %d's", m, n)
		}
	}
	indices := make(map[int]bool)
	for range 100 {
		n := NewIndex()
		if int(int32(n)) != n || n < firstIndex { // the kernel's are of 31 bits
			t.Errorf("%d is no index of a tunnel's device", n)
		}
		indices[n] = true
	}
	if len(indices) < 99 {
		t.Errorf("100 devices share %d indices", len(indices))
	}
	if RuleTunnel+Tunnels > RuleMarked || RuleInbound >= RuleTunnel {
		t.Error("priorities of rules overlap")
	}
}
