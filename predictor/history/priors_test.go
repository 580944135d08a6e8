package history

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"forefend.dev/forefend/runtime/store"
)

func written(t testing.TB, p *Priors) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := p.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// Another node knows a program from the priors of the first, and keeps them.
func TestPriorsTravel(t *testing.T) {
	m := newModel(0.98, 100)
	for n := range 30 {
		live(m, program(n).Query(), observe(program(n), n, 100<<20))
	}
	priors, err := ReadPriors(bytes.NewReader(written(t, m.priors())))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	s, err := store.Open(ctx, t.TempDir(), store.Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, o := range []Options{{Coverage: 0.98, Priors: priors}, {Coverage: 0.98}} { // the second time from the snapshot
		b, err := Open(ctx, s, o)
		if err != nil {
			t.Fatal(err)
		}
		p := b.Predict(program(77).Query())
		if p.Runs != len(b.OpenRuns()) && p.Level != "" || p.Memory.Value < 100<<20 || p.Memory.Value > 250<<20 {
			t.Errorf("%+v", p)
		}
		if o.Priors != nil {
			if err := b.Snapshot(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a node knows itself is not overruled.
func TestPriorsFillWhatIsUnknown(t *testing.T) {
	other, m := newModel(0.98, 100), newModel(0.98, 100)
	live(other, program(1).Query(), observe(program(1), 1, 8<<30))
	live(m, program(2).Query(), observe(program(2), 1, 10<<20))
	before := len(written(t, m.priors()))
	m.adopt(other.priors())
	m.adopt(nil)
	if b := m.predict(program(3).Query(), 0.98, seal{}).Memory; b.Value > 1<<30 {
		t.Errorf("%+v", b)
	}
	if after := len(written(t, m.priors())); after != before {
		t.Errorf("%d bytes of priors, %d before", after, before)
	}
}

func TestGoldenPriors(t *testing.T) {
	const path = "testdata/priors-v1"
	if *update {
		if err := os.WriteFile(path, written(t, sampleModel().priors()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ReadPriors(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(written(t, p)); got != len(b) || len(p.kin.traits) == 0 {
		t.Errorf("%d bytes, the file has %d: if the format changed, raise priorsVersion", got, len(b))
	}
}

func TestWhatAreNoPriors(t *testing.T) {
	good := written(t, sampleModel().priors())
	newer := bytes.Clone(good)
	newer[len(priorsMagic)]++
	for name, b := range map[string][]byte{"empty": nil, "text": []byte("hello, this is a text"), "cut": good[:len(good)-3], "newer": newer} {
		if _, err := ReadPriors(bytes.NewReader(b)); !errors.Is(err, ErrNoPriors) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadPriors(f *testing.F) {
	f.Add(written(f, sampleModel().priors()))
	f.Add([]byte(priorsMagic + "\x01\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ReadPriors(bytes.NewReader(b))
		if err != nil {
			return
		}
		m := newModel(0.98, 100)
		m.adopt(p) // what was accepted must be usable
		for i := range 3 {
			live(m, program(i).Query(), observe(program(i), i, 1<<20))
		}
		written(t, m.priors())
	})
}

// Another process may look while the daemon has the store open.
func TestPeekPriors(t *testing.T) {
	f := newFixture(t)
	if _, found, err := PeekPriors(f.dir); found || err != nil {
		t.Errorf("before the first snapshot: %t, %v", found, err)
	}
	f.record(observe(redis, 1, 100<<20))
	if err := f.Snapshot(context.Background()); err != nil {
		t.Fatal(err)
	}
	p, found, err := PeekPriors(f.dir)
	if !found || err != nil || p.kin.traits["program:redis-server"] == nil {
		t.Fatalf("%t, %v, %+v", found, err, p)
	}
	path := filepath.Join(f.dir, snapshotName+".snapshot")
	if err := os.WriteFile(path, []byte("FFSNAP, but no more than that"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, found, err := PeekPriors(f.dir); found || !errors.Is(err, store.ErrDamaged) {
		t.Errorf("a damaged one: %t, %v", found, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("looking moved it: %v", err)
	}
}
