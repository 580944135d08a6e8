package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/test/e2e/harness"
)

// listedPrefixes is how many the feed of TestFeedsOfManyContainers has.
const listedPrefixes = 100_000

// TestFeedsOfManyContainers: the containers of a node look into one set of a hundred thousand listed prefixes, by the same programs, and
// one change of the feed reaches them all. FEEDS_CONTAINERS says how many they are: `make feeds` has a hundred.
func TestFeedsOfManyContainers(t *testing.T) {
	containers := 3
	if text := os.Getenv("FEEDS_CONTAINERS"); text != "" {
		var err error
		if containers, err = strconv.Atoi(text); err != nil || containers < 1 || containers > 250 {
			t.Fatalf("FEEDS_CONTAINERS=%q: want 1 to 250", text)
		}
	}
	feeds := t.TempDir()
	write := func(more string) time.Time {
		t.Helper()
		var b strings.Builder
		for i := range listedPrefixes {
			fmt.Fprintf(&b, "%d.%d.%d.0/24\n", 11+i>>15, i>>7&0xff, i<<1&0xff)
		}
		next := filepath.Join(t.TempDir(), "next")
		if err := os.WriteFile(next, []byte(b.String()+more), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(feeds, "bad.txt")); err != nil {
			t.Fatal(err)
		}
		return time.Now()
	}
	write("")
	h := newHost(t, harness.WithConfig(fmt.Sprintf("mode = \"observe\"\n[scan]\nenabled = false\n[threats]\nfeeds = [%q]\n", feeds)))
	o := newOutside(t)
	var ids []string
	var pids []int
	for range containers {
		id := h.start(t, sh("sleep 100000", "--annotation", "forefend.dev/egress.feeds=block"))
		pid := h.row(t, id).PID
		o.link(t, pid)
		ids, pids = append(ids, id), append(pids, pid)
	}
	set, memory := listedSet(t, h)
	if n := len(gatePrograms(t, pids, set.outer)); n != 1 {
		t.Errorf("%d containers have %d programs for what they send, want one", containers, n)
	}
	const address = "203.0.113.1"
	for _, id := range ids {
		if !h.reached(id, address) {
			t.Errorf("%s does not reach %s, which is not listed", id, address)
		}
	}
	written := write("203.0.113.0/24\n")
	if !within(2*time.Minute, func() bool { now, _ := listedSet(t, h); return now.inner != set.inner }) {
		t.Fatal("the change of a feed does not come to the kernel")
	}
	took := time.Since(written)
	for _, id := range ids {
		if h.reach(id, address) {
			t.Errorf("%s reaches %s, which is listed by now", id, address)
		}
	}
	if n := len(gatePrograms(t, pids, set.outer)); n != 1 {
		t.Errorf("%d containers have %d programs by now, want one", containers, n)
	}
	t.Logf("%d containers, %d listed prefixes: one set of %.1f MiB; a change was in force %s after the file was there", containers, listedPrefixes,
		float64(memory)/(1<<20), took.Round(time.Millisecond))
}

// numbersOfSet are those of the map in which the node's set is, and of the set.
type numbersOfSet struct{ outer, inner ebpf.MapID }

// listedSet finds the node's set of listed addresses, once it is there, and its memory as the kernel accounts for it.
func listedSet(t *testing.T, h *host) (n numbersOfSet, memory uint64) {
	t.Helper()
	eventually(t, "a set of listed addresses", func() bool {
		text, err := os.ReadFile(h.state("gates", "feeds"))
		if err != nil {
			return false
		}
		id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if err != nil {
			return false
		}
		n.outer = ebpf.MapID(id)
		outer, err := ebpf.NewMapFromID(n.outer)
		if err != nil {
			return false
		}
		defer outer.Close()
		if outer.Lookup(uint32(0), &n.inner) != nil {
			return false
		}
		inner, err := ebpf.NewMapFromID(n.inner)
		if err != nil {
			return false // replaced meanwhile
		}
		defer inner.Close()
		info, err := inner.Info()
		if err != nil {
			t.Fatal(err)
		}
		memory, _ = info.Memlock()
		return true
	})
	return n, memory
}

// gatePrograms are the programs that see what processes' cgroups send. All have to look into the map with a number.
func gatePrograms(t *testing.T, pids []int, feeds ebpf.MapID) (ids []ebpf.ProgramID) {
	t.Helper()
	for _, pid := range pids {
		group, err := cgroup.Of(pid)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.Open(group.Unified)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		attached, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInetEgress})
		if err != nil {
			t.Fatal(err)
		}
		if len(attached.Programs) != 1 {
			t.Fatalf("%d programs are attached to %s, want one", len(attached.Programs), group.Unified)
		}
		if id := attached.Programs[0].ID; !slices.Contains(ids, id) {
			ids = append(ids, id)
			p, err := ebpf.NewProgramFromID(id)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			if maps, _ := info.MapIDs(); !slices.Contains(maps, feeds) {
				t.Errorf("program %d looks into maps %v, not into that of the feeds (%d)", id, maps, feeds)
			}
		}
	}
	return ids
}
