package store

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// damages are ways a file can come out of a crash or a bad disk.
var damages = map[string]func([]byte) []byte{
	"empty":     func([]byte) []byte { return nil },
	"half":      func(b []byte) []byte { return b[:len(b)/2] },
	"torn":      func(b []byte) []byte { return b[:max(0, len(b)-7)] },
	"zeroed":    func(b []byte) []byte { return append(bytes.Clone(b[:len(b)/2]), make([]byte, len(b)-len(b)/2)...) },
	"bit":       func(b []byte) []byte { c := bytes.Clone(b); c[len(c)/2] ^= 0x10; return c },
	"first bit": func(b []byte) []byte { c := bytes.Clone(b); c[min(4, len(c)-1)] ^= 1; return c },
	"garbage":   func(b []byte) []byte { return bytes.Repeat([]byte("garbage "), 1+len(b)/8) },
	"longer":    func(b []byte) []byte { return append(bytes.Clone(b), "tail that nobody wrote"...) },
	"gone":      nil,
}

// TestDamagedFiles damages each file of a store in each way. Whatever is left
// must be what was written, in order; what is missing must be reported; and
// the store must work.
func TestDamagedFiles(t *testing.T) {
	original := t.TempDir()
	written := writeSample(t, original)
	for _, file := range filesOf(t, original) {
		for name, damage := range damages {
			if testing.Short() && name != "half" && name != "bit" && name != "gone" {
				continue
			}
			t.Run(file+"/"+name, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(original)); err != nil {
					t.Fatal(err)
				}
				damageFile(t, filepath.Join(dir, file), damage)
				checkSurvivors(t, dir, written)
			})
		}
	}
}

func writeSample(t *testing.T, dir string) map[Stream][]string {
	t.Helper()
	written := make(map[Stream][]string)
	s, err := Open(context.Background(), dir, Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range []Stream{Runs, Checkpoints, Events} {
		for i := range 40 {
			body := fmt.Sprintf("%s %d %s", stream, i, strings.Repeat("x", 300))
			appendAll(t, s, stream, fmt.Sprint("subject", i%20+i/20*100), body)
			written[stream] = append(written[stream], body)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return written
}

func filesOf(t *testing.T, dir string) (files []string) {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			rel, _ := filepath.Rel(dir, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	return files
}

func damageFile(t *testing.T, path string, damage func([]byte) []byte) {
	t.Helper()
	if damage == nil {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		t.Skip("empty already")
	}
	if err := os.WriteFile(path, damage(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func checkSurvivors(t *testing.T, dir string, written map[Stream][]string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := Open(ctx, dir, Options{Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for stream, bodies := range written {
		rest, lost := bodies, 0
		err := s.Replay(ctx, stream, 0, func(r Record) error {
			for len(rest) > 0 && rest[0] != string(r.Body) {
				rest, lost = rest[1:], lost+1
			}
			if len(rest) == 0 {
				return fmt.Errorf("record %d, %.40q, was not written, or not in this order", r.Seq, r.Body)
			}
			rest = rest[1:]
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", stream, err)
		}
		if lost += len(rest); lost > 0 && len(s.SetAside()) == 0 {
			t.Errorf("%s: %d records are lost and nobody says so", stream, lost)
		}
	}
	seq, err := s.Append(ctx, Runs, "after", []byte("after"))
	if err != nil {
		t.Fatalf("the store is not usable afterwards: %v", err)
	}
	got, err := s.Newest(ctx, Runs, "after", 1)
	if err != nil || len(got) != 1 || got[0].Seq != seq || string(got[0].Body) != "after" {
		t.Errorf("read back %v, %v", got, err)
	}
}
