package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

func decision(profile string) api.Decision {
	return api.Decision{Version: api.Version, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Availability: api.ByDaemon, Profile: profile, Table: []byte{0, 1, 2}, Revision: 1}
}

func key(level workload.Level, value string) workload.Key {
	return workload.Key{Level: level, Value: value}
}

var keys = []workload.Key{key(0, "aa00"), key(1, "bb11"), key(workload.LevelNode, "node")}

func TestSealedReadsTheMostExact(t *testing.T) {
	dir := SealedDir(filepath.Join(t.TempDir(), "sealed"))
	if _, _, err := dir.Read(keys); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read of nothing: %v", err)
	}
	for i := len(keys) - 1; i >= 0; i-- {
		want := decision(fmt.Sprint("profile ", i))
		if err := dir.Write(keys[i], want); err != nil {
			t.Fatal(err)
		}
		got, k, err := dir.Read(keys)
		if err != nil || k != keys[i] || !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v of %v, %v\nwant %+v of %v", got, k, err, want, keys[i])
		}
	}
	fi, err := os.Stat(filepath.Join(string(dir), "0-aa00.sealed"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", fi.Mode(), err)
	}
	for range 2 {
		if err := dir.Remove(keys[0]); err != nil {
			t.Fatal(err)
		}
	}
	if _, k, err := dir.Read(keys); err != nil || k != keys[1] {
		t.Errorf("after Remove: %v, %v", k, err)
	}
}

func TestSealedDamage(t *testing.T) {
	good := func(t *testing.T, dir SealedDir) string {
		t.Helper()
		for _, k := range keys {
			if err := dir.Write(k, decision("p")); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(filepath.Join(string(dir), "0-aa00.sealed"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	resign := func(body string) string { return string(header([]byte(body))) + body }
	for name, spoil := range map[string]func(string) string{
		"empty":           func(string) string { return "" },
		"cut short":       func(s string) string { return s[:len(s)-1] },
		"longer":          func(s string) string { return s + " " },
		"one bit":         func(s string) string { return strings.Replace(s, `"p"`, `"q"`, 1) },
		"newer version":   func(s string) string { return strings.Replace(s, "sealed 1", "sealed 2", 1) },
		"no header":       func(s string) string { _, body, _ := strings.Cut(s, "\n"); return body },
		"header alone":    func(s string) string { head, _, _ := strings.Cut(s, "\n"); return head },
		"not JSON":        func(string) string { return resign("x") },
		"newer decision":  func(string) string { return resign(`{"key":{"level":0,"value":"aa00"},"decision":{"version":99}}`) },
		"another's":       func(string) string { return resign(`{"key":{"level":0,"value":"cc"},"decision":{"version":1}}`) },
		"level confusion": func(string) string { return resign(`{"key":{"level":1,"value":"aa00"},"decision":{"version":1}}`) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := SealedDir(t.TempDir())
			path := filepath.Join(string(dir), "0-aa00.sealed")
			write(t, path, "")
			write(t, path, spoil(good(t, dir)))
			_, k, err := dir.Read(keys)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) || k != keys[0] {
				t.Errorf("%v, %v; want ErrDamaged, its path and key", k, err)
			}
			if err := dir.Write(keys[0], decision("new")); err != nil {
				t.Fatal(err)
			}
			if got, _, err := dir.Read(keys); err != nil || got.Profile != "new" {
				t.Errorf("after writing again: %+v, %v", got, err)
			}
		})
	}
}

func TestSealedHostileKeys(t *testing.T) {
	dir := SealedDir(t.TempDir())
	for _, value := range []string{"", "..", "../x", "a/b", "A", "a.b", strings.Repeat("a", 65), "a\x00"} {
		k := key(0, value)
		if err := dir.Write(k, decision("p")); err == nil {
			t.Errorf("wrote key %q", value)
		}
		if _, _, err := dir.Read([]workload.Key{k}); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read key %q: %v", value, err)
		}
		if err := dir.Remove(k); err == nil {
			t.Errorf("removed key %q", value)
		}
	}
	if names := names(t, string(dir)); len(names) != 0 {
		t.Errorf("files: %v", names)
	}
}

func TestTrimRemovesTheOldest(t *testing.T) {
	dir := SealedDir(t.TempDir())
	for i := range 30 {
		k := key(0, fmt.Sprintf("%02d", i))
		if err := dir.Write(k, decision("p")); err != nil {
			t.Fatal(err)
		}
		path, _ := dir.path(k)
		when := time.Unix(int64(1000+(i*7)%30), 0) // not in order of name
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.trim(30); err != nil || len(names(t, string(dir))) != 30 {
		t.Fatalf("trim at the bound: %v, %d files", err, len(names(t, string(dir))))
	}
	if err := dir.trim(20); err != nil {
		t.Fatal(err)
	}
	left := names(t, string(dir))
	if len(left) != 18 {
		t.Errorf("%d files are left, want 18", len(left))
	}
	for _, name := range left {
		fi, err := os.Stat(filepath.Join(string(dir), name))
		if err != nil || fi.ModTime().Unix() < 1012 {
			t.Errorf("%s of %v was kept, %v", name, fi.ModTime(), err)
		}
	}
}

func FuzzParseSealed(f *testing.F) {
	body := `{"key":{"level":0,"value":"aa"},"decision":{"version":1}}`
	f.Add(append(header([]byte(body)), body...))
	f.Add([]byte("forefend-sealed 1 sha256:\n"))
	for _, body := range []string{
		`{"key":{"level":2,"value":"ab"},"decision":{"version":1,"facts":{"id":{"namespace":"a","container":"b"},"args":["x"]},"effective":{"version":1,"fields":[{"key":"memory","value":5,"author":3}]},"prediction":{"seen":{"read":1}}}}`,
		`{"key":{},"decision":{"version":99}}`, `{"key":{"level":300},"decision":{"version":1}}`, `null`, `[]`, ``,
	} {
		f.Add(append(header([]byte(body)), body...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := string(data)
		s, err := parseSealed(data)
		if string(data) != before {
			t.Fatal("the input was changed")
		}
		if err == nil && (s.Decision.Version < 1 || s.Decision.Version > api.Version) {
			t.Fatalf("accepted version %d", s.Decision.Version)
		}
		if err == nil { // what was read can be kept and read again
			body, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			again, err := parseSealed(append(header(body), body...))
			if err != nil || again.Key != s.Key {
				t.Fatalf("kept again: %v, %v instead of %v", err, again.Key, s.Key)
			}
		}
		// A checksum is no secret: what is behind a right one is read as carefully.
		if _, err := parseSealed(append(header(data), data...)); err == nil && !json.Valid(data) {
			t.Fatalf("accepted %q", data)
		}
	})
}

func BenchmarkSealedWriteNew(b *testing.B) {
	dir := SealedDir(b.TempDir())
	for i := range MaxSealed - 1 {
		path, _ := dir.path(key(0, fmt.Sprintf("%08x", i)))
		if err := os.MkdirAll(string(dir), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	k := key(0, "ffffffff")
	for b.Loop() {
		if err := errors.Join(dir.Write(k, decision("p")), dir.Remove(k)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecordWrite(b *testing.B) {
	dir := Dir(b.TempDir())
	r := full()
	b.ReportAllocs()
	for b.Loop() {
		if err := dir.Write(r); err != nil {
			b.Fatal(err)
		}
	}
}
