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
