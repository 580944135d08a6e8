package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/nft"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
)

// paper is a plane that only notes what it is told.
type paper struct {
	mu     sync.Mutex
	has    map[wg.Key]wg.Peer // guarded by mu, as is all that follows
	rated  map[[4]byte]string
	broken error
}

func newPaper() *paper {
	return &paper{has: make(map[wg.Key]wg.Peer), rated: make(map[[4]byte]string)}
}

func (p *paper) put(peer wg.Peer, rated []nft.Rated) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	p.has[peer.Public] = peer
	for _, r := range rated {
		p.rated[r.Tail] = r.Class
	}
	return nil
}

func (p *paper) replace(peer wg.Peer, old wg.Key) error {
	err := p.put(peer, nil)
	delete(p.has, old)
	return err
}

func (p *paper) remove(keys []wg.Key, rated []nft.Rated) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	for _, k := range keys {
		delete(p.has, k)
	}
	for _, r := range rated {
		delete(p.rated, r.Tail)
	}
	return nil
}

func (p *paper) peers() (map[wg.Key]wg.PeerStats, error) { return map[wg.Key]wg.PeerStats{}, p.broken }
func (p *paper) forget(map[netip.Addr]bool) error        { return p.broken }
func (p *paper) mend([]nft.Rated) (bool, error)          { return false, p.broken }
func (p *paper) dropped() (map[nft.Counter]uint64, error) {
	return map[nft.Counter]uint64{nft.Spoofed: 3}, p.broken
}
func (*paper) kind() string { return "paper" }
func (*paper) close() error { return nil }

func onPaper(t testing.TB, c Config) (*Gateway, *paper) {
	t.Helper()
	g, err := load(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	p := newPaper()
	g.plane = p
	t.Cleanup(func() { _ = g.journal.close() })
	return g, p
}

func paperConfig(t testing.TB) Config {
	return Config{
		Private: newKey(t), Port: 1, Endpoints: []string{"192.0.2.1:1"}, Pool4: netip.MustParsePrefix("10.8.0.0/22"), Pool6: netip.MustParsePrefix("fd08::/64"),
		Uplink: "up0", MTU: 1420, Term: time.Minute, Leases: 900, State: t.TempDir(), Classes: []Class{{"bulk", 1000}},
		Clients: []Client{{Name: "a", Leases: 20000}, {Name: "b", Leases: 5, Classes: []string{"bulk"}}},
	}
}

func allocate(t testing.TB) provision.Allocate {
	return provision.Allocate{Version: provision.Version, PublicKey: newKey(t).Public().Text()}
}

// TestBounds asks for far more than there is: what is refused leaves nothing behind, and what is written down stays small.
func TestBounds(t *testing.T) {
	c := paperConfig(t)
	c.Term = time.Hour // none ends while a slow machine gives them back
	g, p := onPaper(t, c)
	var given []string
	for range 10_000 {
		r, err := g.Allocate("a", allocate(t))
		switch {
		case err == nil:
			given = append(given, r.Lease.ID)
		case !errdefs.IsResourceExhausted(err):
			t.Fatal(err)
		}
	}
	if len(given) != c.Leases || len(g.leases) != c.Leases || len(p.has) != c.Leases || len(g.addresses.used) != c.Leases {
		t.Errorf("%d leases given, %d known, %d peers, %d addresses", len(given), len(g.leases), len(p.has), len(g.addresses.used))
	}
	churn := 10_000
	if testing.Short() {
		churn = 1000
	}
	for n := range churn { // give back and take again
		if err := g.Release("a", given[n%len(given)]); err != nil {
			t.Fatal(err)
		}
		r, err := g.Allocate("a", allocate(t))
		for errdefs.IsResourceExhausted(err) {
			if err := g.collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			r, err = g.Allocate("a", allocate(t))
		}
		if err != nil {
			t.Fatal(err)
		}
		given[n%len(given)] = r.Lease.ID
	}
	info, err := os.Stat(filepath.Join(c.State, journalName))
	if most := int64((slack + 3*c.Leases) * 300); err != nil || info.Size() > most {
		t.Errorf("%d bytes are written down for %d leases: %v", info.Size(), c.Leases, err)
	}
}

// TestClients holds each client to its own leases, number and classes.
func TestClients(t *testing.T) {
	g, p := onPaper(t, paperConfig(t))
	for n := range 6 {
		r, err := g.Allocate("b", allocate(t))
		if n == 5 {
			if !errdefs.IsResourceExhausted(err) {
				t.Errorf("a sixth lease: %v", err)
			}
			break
		}
		if err != nil || r.Lease.Class != "bulk" || r.Lease.Rate != 1000 || r.Lease.PresharedKey != "" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if len(p.rated) != 5 {
		t.Errorf("rates of %d peers", len(p.rated))
	}
	mine, again := allocate(t), allocate(t)
	mine.Preshared = true
	first, err := g.Allocate("a", mine)
	if err != nil || first.Lease.PresharedKey == "" {
		t.Fatalf("%+v, %v", first, err)
	}
	if same, err := g.Allocate("a", mine); err != nil || fmt.Sprint(same) != fmt.Sprint(first) {
		t.Errorf("asked again: %+v, %v", same, err)
	}
	if _, err := g.Allocate("b", mine); !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) {
		t.Errorf("another one's key: %v", err)
	}
	own := allocate(t)
	own.PublicKey = g.config.Private.Public().Text()
	for what, err := range map[string]error{
		"a class that it may not have": second(g.Allocate("a", provision.Allocate{Version: 1, PublicKey: again.PublicKey, Class: "bulk"})),
		"the gateway's own key":        second(g.Allocate("a", own)),
		"another version":              second(g.Allocate("a", provision.Allocate{Version: 2, PublicKey: again.PublicKey})),
		"no key":                       second(g.Allocate("a", provision.Allocate{Version: 1, PublicKey: "x"})),
		"a key that is taken":          second(g.Rekey("a", first.Lease.ID, provision.Rekey{Version: 1, PublicKey: g.config.Private.Public().Text()})),
	} {
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range map[string]error{
		"another one's lease, released": g.Release("b", first.Lease.ID),
		"another one's lease, rekeyed":  second(g.Rekey("b", first.Lease.ID, provision.Rekey{Version: 1, PublicKey: again.PublicKey})),
		"no lease":                      g.Release("a", newID()),
	} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if r, err := g.Renew("b", provision.Renew{Version: 1, Leases: []string{first.Lease.ID}}); err != nil || len(r.Gone) != 1 {
		t.Errorf("another one's lease, renewed: %+v, %v", r, err)
	}
	if s, err := g.Stats("a"); err != nil || len(s.Leases) != 1 || s.Most != 20000 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := g.SetClients(t.Context(), []Client{{Name: "b", Leases: 1}}); err != nil || len(g.leases) != 5 {
		t.Errorf("%d leases after a client was revoked: %v", len(g.leases), err)
	}
	if _, err := g.Allocate("a", again); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a revoked client: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestGivenBack: who gives leases back and takes others as fast as it can holds no more addresses than its leases allow, until those are free again.
func TestGivenBack(t *testing.T) {
	g, p := onPaper(t, paperConfig(t))
	churn := func() (given int) {
		for range 100 {
			r, err := g.Allocate("b", allocate(t))
			if errdefs.IsResourceExhausted(err) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Release("b", r.Lease.ID); err != nil {
				t.Fatal(err)
			}
			given++
		}
		return given
	}
	const most = 2*5 + coolSpare
	if n := churn(); n != most || len(g.addresses.used) != most {
		t.Errorf("%d leases were given, %d addresses are held: %d may be", n, len(g.addresses.used), most)
	}
	if _, err := g.Allocate("a", allocate(t)); err != nil {
		t.Errorf("another client: %v", err)
	}
	p.broken = errors.New("busy")
	if err := g.collect(t.Context()); !errors.Is(err, p.broken) {
		t.Error(err)
	}
	p.broken = nil
	if churn() != 0 {
		t.Error("addresses whose connections the kernel has not forgotten count for nobody")
	}
	if err := g.collect(t.Context()); err != nil || len(g.cool) != 0 {
		t.Errorf("%v, %v", err, g.cool)
	}
	if n := churn(); n != most {
		t.Errorf("%d leases were given once addresses are free", n)
	}
}

// TestFigures counts leases by how they have ended, and what the door answered.
func TestFigures(t *testing.T) {
	c := paperConfig(t)
	c.Leases = 5
	g, p := onPaper(t, c)
	now := time.Now()
	g.now = func() time.Time { return now }
	var given []string
	for range 4 {
		r, err := g.Allocate("a", allocate(t))
		if err != nil {
			t.Fatal(err)
		}
		given = append(given, r.Lease.ID)
	}
	r, err := g.Allocate("b", allocate(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Allocate("a", allocate(t)); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	free := g.Figures().Addresses
	if err := g.Release("a", given[0]); err != nil {
		t.Fatal(err)
	}
	now = now.Add(c.Term / 2)
	for client, leases := range map[string][]string{"a": given[2:], "b": {r.Lease.ID}} {
		if _, err := g.Renew(client, provision.Renew{Version: 1, Leases: leases}); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(c.Term/2 + 1)
	if err := g.collect(t.Context()); err != nil { // given[1] was not renewed
		t.Fatal(err)
	}
	p.broken = errors.New("broken")
	if err := g.SetClients(t.Context(), []Client{{Name: "a", Leases: 5}}); err == nil {
		t.Error("the kernel refuses, and nothing says so")
	}
	if f := g.Figures(); f.Leases != 3 || f.Dropped != nil || f.Ended[Revoked] != 0 {
		t.Errorf("%+v", f)
	}
	p.broken = nil
	if err := g.collect(t.Context()); err != nil { // b's
		t.Fatal(err)
	}
	f := g.Figures()
	if f.Clients != 1 || f.Leases != 2 || f.Most != 5 || f.Given != 5 || !maps.Equal(f.Ended, map[Reason]uint64{Released: 1, Expired: 1, Revoked: 1}) ||
		f.Addresses != free+3 || f.Dropped[nft.Spoofed] != 3 {
		t.Errorf("%+v, %d addresses were free before", f, free)
	}
}

// TestFailures has the kernel and the disk refuse: nothing is given, nothing is left.
func TestFailures(t *testing.T) {
	g, p := onPaper(t, paperConfig(t))
	p.broken = errors.New("broken")
	if _, err := g.Allocate("a", allocate(t)); !errdefs.IsUnavailable(err) || len(g.leases)+len(g.addresses.used) != 0 {
		t.Errorf("%v, %d leases", err, len(g.leases))
	}
	p.broken = nil
	r, err := g.Allocate("a", allocate(t))
	if err != nil {
		t.Fatal(err)
	}
	p.broken = errors.New("broken")
	if err := g.Release("a", r.Lease.ID); !errdefs.IsUnavailable(err) || len(g.leases) != 1 {
		t.Errorf("%v, %d leases", err, len(g.leases))
	}
	p.broken = nil
	dir := g.journal.path
	g.journal.path = filepath.Join(dir, "none", "leases") // a file is no directory
	g.journal.writing.Lock()
	_ = g.journal.shut()
	g.journal.writing.Unlock()
	if _, err := g.Allocate("a", allocate(t)); !errdefs.IsUnavailable(err) || len(g.leases) != 1 || len(p.has) != 1 {
		t.Errorf("%v, %d leases, %d peers", err, len(g.leases), len(p.has))
	}
	g.journal.path = dir
	if _, err := g.Allocate("a", allocate(t)); err != nil || len(g.leases) != 2 {
		t.Errorf("%v, %d leases", err, len(g.leases))
	}
	again, _ := onPaper(t, g.config)
	if !slices.Equal(slices.Sorted(maps.Keys(again.leases)), slices.Sorted(maps.Keys(g.leases))) {
		t.Errorf("written down are %d leases, of %d", len(again.leases), len(g.leases))
	}
}

// TestTogether has many ask at once: each has a lease of its own, and all are written down.
func TestTogether(t *testing.T) {
	g, _ := onPaper(t, paperConfig(t))
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 10 {
				if _, err := g.Allocate("a", allocate(t)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	again, _ := onPaper(t, g.config)
	if len(again.leases) != 500 || len(again.addresses.used) != 500 || len(again.keys) != 500 {
		t.Errorf("%d leases, %d addresses", len(again.leases), len(again.addresses.used))
	}
}

// FuzzDoor sends requests of a client's: whatever they are, the answer is a message, and only leases of its own change.
func FuzzDoor(f *testing.F) {
	f.Add("POST", "/v1/leases", `{"version":1,"public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="}`)
	f.Add("POST", "/v1/leases/renew", `{"version":1,"leases":["00000000000000000000000000000000"]}`)
	f.Add("POST", "/v1/leases/00000000000000000000000000000000/key", `{"version":1,"public_key":""}`)
	f.Add("DELETE", "/v1/leases/../x", "")
	f.Add("GET", "/v1/stats?x=%00", "{")
	g, _ := onPaper(f, paperConfig(f))
	theirs, err := g.Allocate("b", allocate(f))
	if err != nil {
		f.Fatal(err)
	}
	d := NewDoor(g, nil)
	handler := d.handler()
	f.Fuzz(func(t *testing.T, method, path, body string) {
		if strings.ContainsAny(method, " \r\n\t") || method == "" {
			return
		}
		r, err := http.NewRequest(method, "https://gateway.example/", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = path
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, asClient(r, "a"))
		if w.Code >= 400 {
			var m provision.Failure
			if err := provision.Decode(w.Body, provision.MaxMessage, &m); err != nil && w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%d %q is no message: %v", w.Code, w.Body, err)
			}
		}
		if g.leases[theirs.Lease.ID] == nil || len(g.leases) > g.config.Leases {
			t.Error("another one's lease is gone, or there are too many")
		}
	})
}

// FuzzJournal reads what is damaged: no crash, and what is read is in order.
func FuzzJournal(f *testing.F) {
	g, _ := onPaper(f, paperConfig(f))
	for range 3 {
		if _, err := g.Allocate("b", allocate(f)); err != nil {
			f.Fatal(err)
		}
	}
	body, err := os.ReadFile(g.journal.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(body))
	f.Add(strings.ReplaceAll(string(body), "1", "2"))
	f.Add(strings.Repeat("x", 2*maxLine) + "\n" + string(body))
	f.Fuzz(func(t *testing.T, text string) {
		leases, bad, err := readJournal(strings.NewReader(text))
		if err != nil || bad < 0 {
			t.Fatal(err)
		}
		for id, l := range leases {
			if id != l.ID || l.check() != nil {
				t.Errorf("%+v", l)
			}
		}
	})
}

// TestJournalDamaged keeps a damaged journal aside, and takes up what is in order.
func TestJournalDamaged(t *testing.T) {
	c := paperConfig(t)
	g, _ := onPaper(t, c)
	for range 3 {
		if _, err := g.Allocate("a", allocate(t)); err != nil {
			t.Fatal(err)
		}
	}
	path := g.journal.path
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(body), "\n")
	lines[1] = strings.TrimSpace(lines[1]) + "torn and longer than a line may be " + strings.Repeat("x", 2*maxLine) + "\n"
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")+"0123 torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, _ := onPaper(t, c)
	if len(again.leases) != 2 {
		t.Errorf("%d leases of a damaged journal", len(again.leases))
	}
	if aside, err := filepath.Glob(path + "-damaged-*"); err != nil || len(aside) != 1 {
		t.Errorf("kept aside: %v, %v", aside, err)
	}
}

// TestRevokedLater has the device refuse when a client is revoked: its leases end with the next look.
func TestRevokedLater(t *testing.T) {
	g, p := onPaper(t, paperConfig(t))
	if _, err := g.Allocate("a", allocate(t)); err != nil {
		t.Fatal(err)
	}
	p.broken = errors.New("busy")
	if err := g.SetClients(t.Context(), []Client{{Name: "b", Leases: 5}}); !errors.Is(err, p.broken) {
		t.Errorf("the device refused, and %v", err)
	}
	p.broken = nil
	if err := g.collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(g.leases) != 0 || len(p.has) != 0 {
		t.Errorf("%d leases and %d peers of a client that is none", len(g.leases), len(p.has))
	}
}
