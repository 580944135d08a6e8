package profile

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var clock = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// node is a store with a Book over it.
type node struct {
	*Book
	store *store.Store
	dir   string
	n     int
}

func open(t testing.TB, dir string) *node {
	t.Helper()
	s, err := store.Open(context.Background(), dir, store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(context.Background(), s, func() time.Time { return clock })
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Book: b, store: s, dir: dir}
	t.Cleanup(func() { _ = s.Close() })
	return n
}

// end records a run as the history does, and tells the Book.
func (n *node) end(t testing.TB, change func(*workload.Observation)) {
	t.Helper()
	n.n++
	o := workload.Observation{
		Version: workload.ObservationVersion, Run: fmt.Sprintf("%s-%d", n.dir, n.n), User: "alice", Group: "web", Final: true,
		Keys: []workload.Key{{Level: workload.LevelExecutable, Value: "ff"}, {Level: workload.LevelNode, Value: "node"}}, Ended: clock,
		Usage: workload.Usage{MemoryPeak: 100},
	}
	if change != nil {
		change(&o)
	}
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	seq, err := n.store.Append(t.Context(), store.Runs, "x", body)
	if err != nil {
		t.Fatal(err)
	}
	n.Learn(seq, &o)
}

func refused(o *workload.Observation) { o.Denied = map[string]uint64{"mount": 1} }

func listed(o *workload.Observation) {
	o.Findings.Contacts = []evidence.Contact{{Destination: "tcp/192.0.2.1:80", Feed: "drop", Confidence: 0.9}}
}

func TestTrust(t *testing.T) {
	n := open(t, t.TempDir())
	if s := n.Standing("alice", "web"); s.Trust != stranger || s.Runs != 0 || s.User != "alice" || s.Group != "web" {
		t.Errorf("a stranger: %+v", s)
	}
	for range 40 {
		n.end(t, nil)
	}
	good := n.Standing("alice", "web")
	if good.Trust < 0.85 || good.Runs != 40 || !strings.Contains(good.Why, "40 runs, none at fault") {
		t.Errorf("after 40 good runs: %+v", good)
	}
	// The group speaks for who is new in it, less than their own runs would.
	if s := n.Standing("bob", "web"); s.Trust <= stranger || s.Trust > good.Trust || !strings.Contains(s.Why, "never seen before; group: 40 runs") {
		t.Errorf("new in a good group: %+v", s)
	}
	n.end(t, listed)
	after := n.Standing("alice", "web")
	if after.Trust > good.Trust-0.05 || after.Contacts != 1 || !strings.Contains(after.Why, "1 contacts with listed addresses") {
		t.Errorf("one contact costs %.3f: %+v", good.Trust-after.Trust, after)
	}
	for range 40 {
		n.end(t, refused)
	}
	if s := n.Standing("alice", "web"); s.Trust > after.Trust-0.2 || s.Denied != 40 {
		t.Errorf("40 runs with refused calls: %+v", s)
	}
}

func TestBehaviourFades(t *testing.T) {
	r := &record{Last: clock}
	for range 10 {
		r.add(&run{Ended: clock, Findings: evidence.Findings{Contacts: []evidence.Contact{{Confidence: 1}}}})
	}
	now, later := r.trust(stranger, clock), r.trust(stranger, clock.Add(4*halfLife))
	if now > 0.1 || later < 2*now || later > stranger {
		t.Errorf("trust %.3f now, %.3f after four half-lives", now, later)
	}
}

func TestWhatCounts(t *testing.T) {
	n := open(t, t.TempDir())
	n.end(t, func(o *workload.Observation) { o.Requested.Memory = 600 })
	n.end(t, func(o *workload.Observation) { o.Requested.Memory = 400; o.Usage.OOMKills = 1; o.Exit.Status = 137 })
	n.end(t, func(o *workload.Observation) { o.Exit.Status = 1 })
	n.end(t, func(o *workload.Observation) { o.Exit = workload.Exit{Status: 255, Lost: true} })
	s, ok := n.Of("alice", false)
	if !ok || s.Runs != 4 || s.OOMKilled != 1 || s.Failed != 1 || s.OverAsking != 5 || !strings.Contains(s.Why, "asks for 5.0 times") {
		t.Errorf("%+v", s)
	}
	if g, ok := n.Of("web", true); !ok || g.Runs != 4 || g.Group != "web" {
		t.Errorf("%+v", g)
	}
	if _, ok := n.Of("web", false); ok {
		t.Error("the group is no user")
	}
	if list := n.List(10); len(list) != 2 || list[0].User != "alice" || list[1].Group != "web" {
		t.Errorf("%+v", list)
	}
}

// What runs of a workload were caught at is held against its next one, under every key of the same code.
func TestPast(t *testing.T) {
	n := open(t, t.TempDir())
	n.end(t, listed)
	same := []workload.Key{{Level: workload.LevelDigestCommand, Value: "new"}, {Level: workload.LevelExecutable, Value: "ff"}}
	if p := n.Past(same); len(p.Contacts) != 1 {
		t.Errorf("%+v", p)
	}
	if p := n.Past([]workload.Key{{Level: workload.LevelExecutable, Value: "other"}, {Level: workload.LevelNode, Value: "node"}}); !p.Empty() {
		t.Errorf("held against others: %+v", p)
	}
	n.now = func() time.Time { return clock.Add(2 * conductFor) }
	if p := n.Past(same); !p.Empty() {
		t.Error("never forgotten")
	}
}

func TestSurvives(t *testing.T) {
	dir := t.TempDir()
	n := open(t, dir)
	for range 5 {
		n.end(t, listed)
	}
	if err := n.Save(); err != nil {
		t.Fatal(err)
	}
	n.end(t, refused) // after the snapshot: only the store has it
	want := n.Standing("alice", "web")
	if err := n.store.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if got := again.Standing("alice", "web"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if p := again.Past([]workload.Key{{Level: workload.LevelExecutable, Value: "ff"}}); len(p.Contacts) != 1 {
		t.Errorf("%+v", p)
	}
}

func TestARunCountsOnce(t *testing.T) {
	n := open(t, t.TempDir())
	o := &workload.Observation{Version: 1, Run: "r", User: "u", Ended: clock}
	n.Learn(1, o)
	n.Learn(2, o)
	if s, _ := n.Of("u", false); s.Runs != 1 {
		t.Errorf("%d runs", s.Runs)
	}
}

func TestBookIsBounded(t *testing.T) {
	b := &Book{now: func() time.Time { return clock }, books: newBooks()}
	for i := range maxNames + maxConducts {
		name := fmt.Sprint(i)
		b.Learn(uint64(i), &workload.Observation{Run: name, User: name, Ended: clock.Add(time.Duration(i) * time.Second),
			Keys:     []workload.Key{{Level: workload.LevelExecutable, Value: name}},
			Findings: evidence.Findings{Anomalies: []evidence.Anomaly{{}}}})
	}
	if len(b.books.Users) > maxNames || len(b.books.Conducts) > maxConducts || len(b.ended.ring) > maxRuns || len(b.ended.known) > maxRuns {
		t.Errorf("%d users, %d conducts, %d runs", len(b.books.Users), len(b.books.Conducts), len(b.ended.known))
	}
	if _, ok := b.Of(fmt.Sprint(maxNames+maxConducts-1), false); !ok {
		t.Error("the newest was forgotten")
	}
	b.Learn(0, &workload.Observation{Run: "long", User: strings.Repeat("x", maxName+1)})
	if _, ok := b.Of(strings.Repeat("x", maxName+1), false); ok {
		t.Error("a name longer than policy allows")
	}
}

// TestSnapshotGolden reads what version 1 wrote.
func TestSnapshotGolden(t *testing.T) {
	want := newBooks()
	want.Users["alice"] = &record{Last: clock, Runs: 3, Denied: 1, Anomalies: 2, Contacts: 1, OOMKilled: 1, Failed: 1, Good: 2.5, Bad: 0.5, Asked: []float32{2, 6}}
	want.Groups["web"] = &record{Last: clock, Runs: 9, Good: 9}
	want.Conducts["executable:ff"] = &conduct{Last: clock, Findings: evidence.Findings{Contacts: []evidence.Contact{{Destination: "tcp/192.0.2.1:80", Feed: "drop"}}}}
	body, err := json.MarshalIndent(want, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "profiles.v1.json")
	if *update {
		if err := os.WriteFile(file, append(body, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readBooks(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	again, _ := json.MarshalIndent(got, "", "\t")
	if !bytes.Equal(again, body) || version != 1 {
		t.Errorf("got %s", again)
	}
}

func FuzzReadBooks(f *testing.F) {
	f.Add([]byte(`{"version":1,"users":{"a":{"good":1,"asked":[2]}},"groups":{},"conducts":{}}`))
	f.Add([]byte(`{"version":1,"users":{"a":null}}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"users":null,"groups":null,"conducts":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		read, err := readBooks(bytes.NewReader(body))
		if err != nil && len(read.Users)+len(read.Groups)+len(read.Conducts) > 0 {
			t.Error("half a book")
		}
		b := &Book{now: func() time.Time { return clock }, books: read}
		b.Learn(1, &workload.Observation{Run: "r", User: "a", Group: "g", Requested: workload.Requested{Memory: 2}, Usage: workload.Usage{MemoryPeak: 1}})
		for _, s := range append(b.List(100), b.Standing("a", "g")) {
			if !(s.Trust >= 0 && s.Trust <= 1) || !(s.OverAsking >= 0) {
				t.Errorf("%+v", s)
			}
		}
	})
}
