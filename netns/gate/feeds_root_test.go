package gate

import (
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"forefend.dev/forefend/test/root"
)

// many yields n prefixes, every hundredth of IPv6.
func many(n int) func(func(netip.Prefix) bool) {
	return func(yield func(netip.Prefix) bool) {
		for i := range n {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0}), 24)
			if i%100 == 0 {
				p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, byte(i >> 16), byte(i >> 8), byte(i)}), 56)
			}
			if !yield(p) {
				return
			}
		}
	}
}

// TestRootFeedsAreLoadedOnce: a hundred containers and a hundred thousand prefixes are one set, loaded within three seconds, of which one
// entry changes within five milliseconds.
func TestRootFeedsAreLoadedOnce(t *testing.T) {
	w := newWorld(t)
	const containers, listed = 100, 100_000
	start := time.Now()
	if n, err := w.gates.Feeds().Load(many(listed)); err != nil || n != listed {
		t.Fatal(n, err)
	}
	loading := time.Since(start)
	if loading > 3*time.Second {
		t.Errorf("loading %d prefixes took %s", listed, loading)
	}
	before := tries(t)
	var first *Gate
	var dirs []string
	for i := range containers {
		dirs = append(dirs, newCgroup(t, string(rune('A'+i/26))+string(rune('a'+i%26))))
		g, _ := open(t, w, dirs[i])
		set(t, g, Rules{Feeds: FeedsBlock})
		if i == 0 {
			first = g
		}
	}
	if after := tries(t); after-before > containers/10 { // others on the machine may make theirs
		t.Errorf("%d tries with %d containers, %d without", after, containers, before)
	}
	worst := time.Duration(0)
	for range 50 {
		for _, change := range [][2][]netip.Prefix{{prefixes("192.0.2.0/24"), nil}, {nil, prefixes("192.0.2.0/24")}} {
			start = time.Now()
			if err := w.gates.Feeds().Change(change[0], change[1]); err != nil {
				t.Fatal(err)
			}
			worst = max(worst, time.Since(start))
		}
	}
	start = time.Now()
	if _, err := w.gates.Feeds().Load(many(listed)); err != nil { // while a hundred look it up
		t.Fatal(err)
	}
	t.Logf("loaded in %s, reloaded in %s, one change at most %s, locked memory of the set %d KiB", loading, time.Since(start), worst, memoryOfFeeds(t)/1024)
	if worst > 5*time.Millisecond && os.Getenv("FOREFEND_FIGURES") != "" {
		t.Errorf("one change took %s", worst)
	}
	p := w.start(t, dirs[0])
	p.must(t, "dial", "a", at("192.0.2.1"))
	if err := w.gates.Feeds().Change(prefixes("192.0.2.1/32"), nil); err != nil {
		t.Fatal(err)
	}
	p.mustFail(t, "echo", "a")
	set(t, first, Rules{})
	p.must(t, "eventually", "a")
}

// tries counts the machine's tries of threat feeds.
func tries(t *testing.T) (n int) {
	t.Helper()
	eachMap(t, func(m *ebpf.Map, info *ebpf.MapInfo) {
		if info.Name == "forefend_feed" {
			n++
		}
	})
	return n
}

func memoryOfFeeds(t *testing.T) (most uint64) {
	t.Helper()
	eachMap(t, func(_ *ebpf.Map, info *ebpf.MapInfo) {
		if memory, ok := info.Memlock(); ok && info.Name == "forefend_feed" {
			most = max(most, memory)
		}
	})
	return most
}

func eachMap(t *testing.T, f func(*ebpf.Map, *ebpf.MapInfo)) {
	t.Helper()
	for id := ebpf.MapID(0); ; {
		next, err := ebpf.MapGetNextID(id)
		if err != nil {
			return // the last
		}
		id = next
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue // gone meanwhile
		}
		if info, err := m.Info(); err == nil {
			f(m, info)
		}
		_ = m.Close()
	}
}

// TestRootNothingIsLeft: a container that is gone leaves nothing in the node's maps, one whose shim was killed until the sweep; and
// when nobody has a gate any more, nothing at all is loaded.
func TestRootNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	dir := newCgroup(t, "gone")
	g, err := w.gates.Open(dir, 0, func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	set(t, g, Rules{Closed: true, Allow: prefixes("192.0.2.0/24")})
	<-g.announced
	const all = 6
	entries := func() (n int) {
		var fd, verdict uint32
		var set setKey
		for all := w.gates.maps.sets.Iterate(); all.Next(&set, &verdict); {
			n++
		}
		var id uint64
		for _, m := range []*ebpf.Map{w.gates.maps.peers, w.gates.maps.rings, w.gates.maps.framed} {
			for all := m.Iterate(); all.Next(&id, &fd); {
				n++
			}
		}
		return n
	}
	if n := entries(); n != all {
		t.Fatalf("%d entries, want a set of three, correspondents, a ring and packet sockets", n)
	}
	if n, err := w.gates.Sweep(v2Root(t)); n != 0 || err != nil || entries() != all {
		t.Fatalf("swept %d of a cgroup that is there: %v", n, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if n, err := w.gates.Sweep(v2Root(t)); n != all || err != nil || entries() != 0 {
		t.Errorf("swept %d, %d are left: %v", n, entries(), err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}

	tmp := t.TempDir()
	var ids []uint32
	for range 2 { // two processes, as it were
		another, err := Open(tmp)
		if err != nil {
			t.Fatal(err)
		}
		defer another.Close()
		n, err := another.numbers()
		if err != nil || ids != nil && !slices.Equal(n, ids) {
			t.Errorf("loaded %v, and then %v: %v", ids, n, err)
		}
		ids = n
		t.Cleanup(func() { // behind the Close of both
			for end := time.Now().Add(15 * wait); ; time.Sleep(10 * time.Millisecond) {
				p, err := ebpf.NewProgramFromID(ebpf.ProgramID(ids[len(ids)-1]))
				if err != nil {
					return
				}
				_ = p.Close()
				if time.Now().After(end) {
					t.Errorf("program %d is left", ids[len(ids)-1])
					return
				}
			}
		})
	}
}

func TestRootTry(t *testing.T) {
	root.Test(t)
	if err := Try(newCgroup(t, "try")); err != nil {
		t.Error(err)
	}
}
