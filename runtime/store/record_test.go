package store

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files of the current version")

// golden compares with a file that an earlier version of the program wrote.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the format has changed: raise its version and keep reading the old one", path)
	}
}

func TestGoldenRecords(t *testing.T) {
	for name, body := range map[string]string{"record-v1": `{"run":"r1"}`, "record-v1-s2": strings.Repeat(`{"name":"openat","count":3}`, 40)} {
		sealed, err := seal("runs.a", []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, sealed)
		stored, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := unseal("runs.a", stored)
		if err != nil || string(got) != body {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestUnsealRefuses(t *testing.T) {
	good, err := seal("runs.a", []byte(strings.Repeat("0123456789", 100)))
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) []byte { b := bytes.Clone(good); b[at] = to; return b }
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:7], "magic": change(0, 'X'), "version": change(2, 2), "flags": change(3, 0),
		"checksum": change(4, good[4]+1), "body": change(len(good)-1, good[len(good)-1]+1), "torn": good[:len(good)-1],
	} {
		if _, err := unseal("runs.a", b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := unseal("runs.b", good); !errors.Is(err, ErrDamaged) {
		t.Errorf("another subject: %v", err)
	}
	if _, err := seal("runs.a", make([]byte, MaxRecord+1)); err == nil {
		t.Error("a record beyond the bound is accepted")
	}
}

func TestBigRecords(t *testing.T) {
	s := open(t, t.TempDir())
	rng := rand.NewChaCha8([32]byte{})
	body := make([]byte, MaxRecord)
	rng.Read(body) // does not compress
	appendAll(t, s, Decisions, "big", string(body))
	got := replayed(t, s, Decisions, 0)
	if len(got) != 1 || !bytes.Equal(got[0].Body, body) {
		t.Errorf("%d records", len(got))
	}
}

// A record that is whole for the engine but not for us.
func TestDamagedRecordIsSetAsideOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	appendAll(t, s, Runs, "a", "1")
	for _, bad := range []string{"", "not a record", "FR\x01\x00\x00\x00\x00\x00body", "FR\x63\x00\x00\x00\x00\x00future"} {
		if _, err := s.engine.js.Publish(context.Background(), Runs.subject("a"), []byte(bad)); err != nil {
			t.Fatal(err)
		}
	}
	appendAll(t, s, Runs, "a", "2")
	for range 2 {
		if got := bodies(replayed(t, s, Runs, 0)); got != "1 2" {
			t.Errorf("replayed %s", got)
		}
		if got := s.SetAside(); len(got) != 4 || !strings.Contains(got[3], "version 99") {
			t.Errorf("set aside: %q", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
	}
	files, err := filepath.Glob(filepath.Join(dir, asideDir, "runs-*"))
	if err != nil || len(files) != 8 {
		t.Errorf("%q, %v", files, err)
	}
	// What the caller cannot use is treated alike.
	r := replayed(t, s, Runs, 0)[0]
	s.SetAsideRecord(Runs, r, errors.New("no such field"))
	if got := bodies(replayed(t, s, Runs, 0)); got != "2" {
		t.Errorf("replayed %s", got)
	}
}

func FuzzUnseal(f *testing.F) {
	for _, body := range []string{"", "{}", strings.Repeat("abc", 500)} {
		b, err := seal("runs.a", []byte(body))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("FR\x01\x01\x00\x00\x00\x00\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := unseal("runs.a", b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("%v is not ErrDamaged", err)
			}
			return
		}
		again, err := seal("runs.a", body)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := unseal("runs.a", again); err != nil || !bytes.Equal(back, body) {
			t.Fatalf("sealed again: %v", err)
		}
	})
}
