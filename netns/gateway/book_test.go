package gateway

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/receipt"
)

// table is a kernel's connections, as a test has them.
type table struct {
	has    []receipt.Receipt
	broken error
	ended  chan receipt.Receipt
	failed chan error
	shut   chan struct{}
	dumps  int
}

func newTable() *table {
	return &table{ended: make(chan receipt.Receipt), failed: make(chan error), shut: make(chan struct{})}
}

func (k *table) dump() ([]receipt.Receipt, error) {
	k.dumps++
	return append([]receipt.Receipt(nil), k.has...), k.broken
}

func (k *table) ends() (receipt.Receipt, error) {
	select {
	case r := <-k.ended:
		return r, nil
	case err := <-k.failed:
		return receipt.Receipt{}, err
	case <-k.shut:
		return receipt.Receipt{}, errShut
	}
}

func (k *table) close() error {
	close(k.shut)
	return nil
}

// shelf is a book with a client "a", whose lease has one address.
type shelf struct {
	*book
	t   *testing.T
	k   *table
	now time.Time
}

const leaseID = "0102030405060708090a0b0c0d0e0f10"

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, k: newTable(), now: time.Unix(1_800_000_000, 0)}
	s.book = newBook(s.k, 7<<32, func() time.Time { return s.now })
	s.own("a", leaseID, 1, []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")})
	s.own("b", leaseID, 1, []netip.Prefix{netip.MustParsePrefix("10.8.0.3/32")})
	return s
}

func (s *shelf) connection(from string, port uint16, bytes uint64) receipt.Receipt {
	return receipt.Receipt{Protocol: 6, Peer: netip.AddrPortFrom(netip.MustParseAddr(from), port), Server: netip.MustParseAddrPort("192.0.2.1:80"),
		Began: time.Unix(1_799_999_999, int64(port)), Up: receipt.Count{Bytes: bytes, Packets: 1}}
}

func (s *shelf) ask(client string, after uint64) *receipt.Sheet {
	s.t.Helper()
	s.now = s.now.Add(time.Second)
	got, err := s.answer(client, receipt.Nonce{5}, after)
	if err != nil {
		s.t.Fatal(err)
	}
	if again, err := receipt.Parse(got.Append(nil)); err != nil || len(again.Receipts) != len(got.Receipts) {
		s.t.Fatalf("what was answered cannot be read: %v", err)
	}
	return got
}

func (s *shelf) end(r receipt.Receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Final = true
	s.endLocked(&r)
}

func TestBook(t *testing.T) {
	s := newShelf(t)
	s.k.has = []receipt.Receipt{s.connection("10.8.0.2", 1, 100), s.connection("10.8.0.3", 1, 100), s.connection("203.0.113.9", 1, 100)}
	first := s.ask("a", 0)
	if len(first.Receipts) != 1 || first.Receipts[0].Peer != s.k.has[0].Peer || first.Receipts[0].Lease != [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16} ||
		first.Last <= 7<<32 || first.More || first.Nonce != (receipt.Nonce{5}) {
		t.Fatalf("%+v", first)
	}
	if same := s.ask("a", first.Last); len(same.Receipts) != 0 {
		t.Errorf("nothing has changed, and %+v", same)
	}
	s.k.has[0].Up.Bytes = 200
	more := s.ask("a", first.Last)
	if len(more.Receipts) != 1 || more.Receipts[0].Up.Bytes != 200 || more.Receipts[0].Serial <= first.Receipts[0].Serial {
		t.Errorf("it went on: %+v", more)
	}
	s.end(s.connection("10.8.0.2", 1, 250))
	last := s.ask("a", more.Last) // the dump still has it
	if len(last.Receipts) != 1 || !last.Receipts[0].Final || last.Receipts[0].Up.Bytes != 250 {
		t.Errorf("it ended: %+v", last)
	}
	s.k.has = nil
	s.now = s.now.Add(2 * lingers)
	if again := s.ask("a", more.Last); len(again.Receipts) != 1 {
		t.Errorf("the answer was lost: %+v", again)
	}
	if had := s.ask("a", last.Last); len(had.Receipts) != 0 || len(s.nodes["a"].ended) != 0 {
		t.Errorf("what was had is kept: %+v", s.nodes["a"].ended)
	}
	if other := s.ask("c", 0); len(other.Receipts) != 0 {
		t.Errorf("of a stranger: %+v", other)
	}
	if _, err := s.answer("a", receipt.Nonce{}, 9<<32); !errdefs.IsInvalidArgument(err) {
		t.Errorf("after what was not given yet: %v", err)
	}
	s.k.broken = errors.New("no kernel")
	if _, err := s.answer("a", receipt.Nonce{}, 0); err == nil {
		t.Error("a dump that failed is not told")
	}
}

// TestBookMissed is about what the book cannot have seen: it says since when it has seen all.
func TestBookMissed(t *testing.T) {
	s := newShelf(t)
	begun := s.now
	s.k.has = []receipt.Receipt{s.connection("10.8.0.2", 1, 100)}
	if got := s.ask("a", 0); !got.Since.Equal(begun) {
		t.Errorf("since %s", got.Since)
	}
	s.k.has = nil // without a word
	s.ask("a", 0)
	s.now = s.now.Add(2 * lingers)
	if got := s.ask("a", 0); !got.Since.After(begun) || len(got.Receipts) != 0 {
		t.Errorf("an end was missed: %+v", got)
	}
	if got := s.ask("b", 0); !got.Since.Equal(begun) {
		t.Errorf("which is nothing to others: %+v", got)
	}
	missed := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(func(err error) { missed <- err })
	}()
	s.k.failed <- errors.New("no buffer space")
	<-missed
	s.k.ended <- s.connection("10.8.0.2", 2, 3) // after it, the word of what was missed is in
	if err := s.close(); err != nil {
		t.Error(err)
	}
	<-done
	if got := s.ask("b", 0); !got.Since.After(begun) {
		t.Errorf("ends were missed: %+v", got)
	}
}

func TestBookBounds(t *testing.T) {
	s := newShelf(t)
	for i := range 5 * endedLeast {
		s.end(s.connection("10.8.0.2", uint16(i), 1))
	}
	if n := len(s.nodes["a"].ended); n > endedLeast {
		t.Errorf("%d connections that ended are kept", n)
	}
	seen, after, pages := 0, uint64(0), 0
	for more := true; more; pages++ {
		got := s.ask("a", after)
		if !got.Since.After(time.Unix(1_799_999_999, 0)) || len(got.Receipts) > receipt.MaxReceipts {
			t.Fatalf("%d receipts, since %s", len(got.Receipts), got.Since)
		}
		seen, after, more = seen+len(got.Receipts), got.Last, got.More
	}
	if seen < endedLeast/2 || pages < 2 {
		t.Errorf("%d receipts in %d sheets", seen, pages)
	}
}

// TestBookManyOpen: of a node with very many connections a sheet has the first, in order, and costs no more than a node with a few.
func TestBookManyOpen(t *testing.T) {
	s := newShelf(t)
	const all = 10_000
	for i := range all {
		s.k.has = append(s.k.has, s.connection("10.8.0.2", uint16(i), 1))
	}
	s.ask("a", 0)
	has := s.k.has
	s.k.has = nil // a dump of them would be most of what is allocated
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := s.answer("a", receipt.Nonce{}, 0)
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; err != nil || taken > 200<<10 {
		t.Errorf("a sheet takes %d bytes: %v", taken, err)
	}
	s.k.has = has
	begin := uint64(7 << 32)
	serial := begin
	for more := true; more; {
		got := s.ask("a", serial)
		for _, r := range got.Receipts {
			if serial++; r.Serial != serial {
				t.Fatalf("receipt %d where %d was to come", r.Serial, serial)
			}
		}
		if more = got.More; got.Last != serial {
			t.Fatalf("the last of a sheet is %d, it says %d", serial, got.Last)
		}
	}
	if serial-begin != all {
		t.Errorf("%d receipts of %d", serial-begin, all)
	}
}

// slow is a kernel that takes its time.
type slow struct{ *table }

func (k slow) dump() ([]receipt.Receipt, error) {
	time.Sleep(100 * time.Millisecond)
	return k.table.dump()
}

// TestBookAskedWithoutPause: nodes that ask all the time do not have the kernel be asked all the time.
func TestBookAskedWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newTable()
		b := newBook(slow{k}, 0, time.Now)
		for begun := time.Now(); time.Since(begun) < 10*time.Second; {
			if _, err := b.answer("a", receipt.Nonce{}, 0); err != nil {
				t.Fatal(err)
			}
		}
		if k.dumps < 45 || k.dumps > 55 {
			t.Errorf("asked %d times for a tenth of a second each within ten", k.dumps)
		}
	})
}

// TestSeal has the key and serials of receipts survive.
func TestSeal(t *testing.T) {
	dir := t.TempDir()
	first, err := openSeal(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openSeal(dir)
	if err != nil || !second.key().Equal(first.key()) || second.serial() != first.serial()+1<<32 || first.serial() == 0 {
		t.Errorf("%+v after %+v: %v", second, first, err)
	}
	path := filepath.Join(dir, sealName)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, damaged := range []string{"", "{}", `{"version":2,"seed":"AA==","starts":1}`, strings.Repeat("x", maxSeal+1)} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := openSeal(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.40q: %+v, %v", damaged, s, err)
		}
	}
}

// TestNoReceipts is a gateway whose kernel does not count.
func TestNoReceipts(t *testing.T) {
	g, _ := onPaper(t, paperConfig(t))
	if _, err := g.Receipts("a", provision.Receipts{Version: provision.Version, Nonce: make([]byte, 16)}); !errdefs.IsNotImplemented(err) || g.ReceiptKey() != "" {
		t.Errorf("%v, key %q", err, g.ReceiptKey())
	}
	for _, r := range []provision.Receipts{{Version: provision.Version}, {Version: 9, Nonce: make([]byte, 16)}} {
		if _, err := g.Receipts("a", r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
