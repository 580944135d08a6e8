package stamps

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLook(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.toml")
	write := func(text string) {
		t.Helper()
		other := filepath.Join(dir, "new")
		if err := errors.Join(os.WriteFile(other, []byte(text), 0o600), os.Rename(other, file)); err != nil {
			t.Fatal(err)
		}
	}
	look := func() map[string]Stamp {
		t.Helper()
		got, err := Look(dir, func(name string) bool { return strings.HasSuffix(name, ".toml") })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "d.toml"), 0o700), os.WriteFile(filepath.Join(dir, "x"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	write("one")
	first := look()
	if len(first) != 1 || !maps.EqualFunc(first, look(), Stamp.Same) {
		t.Errorf("%v", first)
	}
	write("two") // of the same size
	if maps.EqualFunc(first, look(), Stamp.Same) {
		t.Error("another file is the same")
	}
	if _, err := Look(filepath.Join(dir, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestFile: a file is read when it has stayed as it is from one look to the next, and not again until it is another.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.toml")
	f := Follow(path)
	looks := func(what string, want ...bool) {
		t.Helper()
		for n, w := range want {
			if got := f.Settled(); got != w {
				t.Fatalf("%s, look %d: %v", what, n+1, got)
			}
		}
	}
	looks("no file", false, false)
	add := func(text string) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = file.WriteString(text)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	add("half")
	looks("half of it", false)
	add("a half")
	looks("more of it", false, true, false)
	if !f.Still() {
		t.Error("a file that nobody touched was not what has settled")
	}
	add("another")
	looks("another", false, true)
	add("written while it was read")
	if f.Still() {
		t.Error("a file that was written while it was read was what had settled")
	}
	looks("written while it was read", false, true, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	looks("gone", false, true, false)
}
