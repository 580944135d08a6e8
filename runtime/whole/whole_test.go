package whole

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// held is what a directory has, by name.
func held(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, e := range entries {
		if body, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			all[e.Name()] = string(body)
		} else {
			all[e.Name()] = "?"
		}
	}
	return all
}

// TestReplace: a reader that has the old file open keeps it, the next one has the new one, and nothing is left beside it.
func TestReplace(t *testing.T) {
	for name, put := range map[string]func(string, []byte) error{"for this boot": Replace, "for ever": Keep} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a")
			if err := put(path, []byte("old")); err != nil {
				t.Fatal(err)
			}
			before, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer before.Close()
			if err := os.WriteFile(path+"~", []byte("what one that was killed had begun"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := put(path, []byte("new")); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 10)
			if n, err := before.Read(b); err != nil || string(b[:n]) != "old" {
				t.Errorf("who reads meanwhile has %q, %v", b[:n], err)
			}
			if got := held(t, dir); len(got) != 1 || got["a"] != "new" {
				t.Errorf("%q", got)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		})
	}
}

// TestRefused: what cannot be replaced stays, and nothing is left beside it; a link beside it leads nowhere.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil { // a file does not take the place of a directory
		t.Fatal(err)
	}
	for name, put := range map[string]func(string, []byte) error{"for this boot": Replace, "for ever": Keep} {
		if err := put(path, []byte("new")); err == nil {
			t.Errorf("%s: a directory was replaced", name)
		}
		if got := held(t, dir); len(got) != 1 {
			t.Errorf("%s: %q", name, got)
		}
		if err := put(filepath.Join(dir, "none", "a"), nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: in no directory: %v", name, err)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "theirs")
	if err := errors.Join(os.WriteFile(elsewhere, []byte("theirs"), 0o600), os.Symlink(elsewhere, filepath.Join(dir, "b~"))); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "b"), []byte("ours")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("by a link: %v", err)
	}
	if body, err := os.ReadFile(elsewhere); err != nil || string(body) != "theirs" {
		t.Errorf("what a link leads to is %q, %v", body, err)
	}
}

// TestKeepOpen: what is written afterwards follows the content.
func TestKeepOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	f, err := KeepOpen(path, []byte("one "))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("two")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if body, err := os.ReadFile(path); err != nil || string(body) != "one two" {
		t.Errorf("%q, %v", body, err)
	}
}
