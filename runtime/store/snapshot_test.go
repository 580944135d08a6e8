package store

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// text is a model for tests.
type text string

func (s text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}

func readText(t *testing.T, s *Store) (got string, seq uint64, found bool) {
	t.Helper()
	seq, found, err := s.ReadSnapshot("model", func(r io.Reader) error {
		b, err := io.ReadAll(r)
		got = string(b)
		if strings.Contains(got, "refuse me") {
			return errors.New("a model of the future")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, seq, found
}

func writeText(t *testing.T, s *Store, body string, seq uint64) {
	t.Helper()
	if err := s.WriteSnapshot("model", seq, text(body)); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshot(t *testing.T) {
	s := open(t, t.TempDir())
	if _, _, found := readText(t, s); found {
		t.Error("a new store has a snapshot")
	}
	big := strings.Repeat("0123456789", 100_000)
	writeText(t, s, big, 7)
	if got, seq, found := readText(t, s); got != big || seq != 7 || !found {
		t.Errorf("%d bytes, seq %d, %v", len(got), seq, found)
	}
	writeText(t, s, "", 8)
	if got, seq, found := readText(t, s); got != "" || seq != 8 || !found {
		t.Errorf("%q, seq %d, %v", got, seq, found)
	}
}

func TestFailedSnapshotKeepsTheOldOne(t *testing.T) {
	s := open(t, t.TempDir())
	writeText(t, s, "old", 1)
	if err := s.WriteSnapshot("model", 2, failing{}); err == nil {
		t.Error("no error")
	}
	if got, seq, _ := readText(t, s); got != "old" || seq != 1 {
		t.Errorf("%q, seq %d", got, seq)
	}
}

type failing struct{}

func (failing) WriteTo(w io.Writer) (int64, error) {
	_, _ = w.Write([]byte("half of it"))
	return 10, errors.New("out of ideas")
}

// With the newest snapshot damaged the one before serves, and with both none does.
func TestDamagedSnapshot(t *testing.T) {
	for name, damage := range damages {
		if damage == nil || name == "longer" { // a missing file is no damage, and a tail nobody reads does no harm
			continue
		}
		dir := t.TempDir()
		s := open(t, dir)
		writeText(t, s, strings.Repeat("first ", 50), 1)
		writeText(t, s, strings.Repeat("second ", 50), 2)
		damageFile(t, filepath.Join(dir, "model.snapshot"), damage)
		if _, seq, found := readText(t, s); seq != 1 || !found {
			t.Errorf("%s: seq %d, %v", name, seq, found)
		}
		damageFile(t, filepath.Join(dir, "model.snapshot.previous"), damage)
		if _, _, found := readText(t, s); found {
			t.Errorf("%s: found", name)
		}
		if got := s.SetAside(); len(got) != 2 {
			t.Errorf("%s: set aside: %q", name, got)
		}
		if _, _, found := readText(t, s); found || len(s.SetAside()) != 2 {
			t.Errorf("%s: met again", name)
		}
	}
}

func TestRefusedSnapshotIsSetAside(t *testing.T) {
	s := open(t, t.TempDir())
	writeText(t, s, "refuse me", 1)
	if _, _, found := readText(t, s); found || len(s.SetAside()) != 1 || !strings.Contains(s.SetAside()[0], "a model of the future") {
		t.Errorf("set aside: %q", s.SetAside())
	}
}

func TestGoldenSnapshot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	writeText(t, s, "body of a model", 42)
	b, err := os.ReadFile(filepath.Join(dir, "model.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "snapshot-v1", b)
	old, err := os.ReadFile("testdata/snapshot-v1")
	if err != nil {
		t.Fatal(err)
	}
	seq, body, err := checkSnapshot(bytes.NewReader(old))
	if err != nil || seq != 42 {
		t.Fatalf("seq %d, %v", seq, err)
	}
	if b, err := io.ReadAll(body); string(b) != "body of a model" {
		t.Errorf("%q, %v", b, err)
	}
}

func FuzzSnapshot(f *testing.F) {
	golden, err := os.ReadFile("testdata/snapshot-v1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, body, err := checkSnapshot(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("%v is not ErrDamaged", err)
			}
			return
		}
		if n, err := io.Copy(io.Discard, body); err != nil || n > int64(len(b)) {
			t.Fatalf("%d bytes of body, %v", n, err)
		}
	})
}
