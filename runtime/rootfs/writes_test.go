package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

func TestWrote(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string) error
		want   workload.Tristate
	}{
		"nothing":         {func(string) error { return nil }, workload.No},
		"read":            {func(d string) error { _, err := os.ReadFile(d + "/etc/hosts"); return err }, workload.No},
		"new file":        {func(d string) error { return os.WriteFile(d+"/etc/new", nil, 0o644) }, workload.Yes},
		"new, deep":       {func(d string) error { return os.WriteFile(d+"/a/b/c/new", nil, 0o644) }, workload.Yes},
		"changed content": {func(d string) error { return os.WriteFile(d+"/etc/hosts", []byte("host2"), 0o644) }, workload.Yes},
		"changed mode":    {func(d string) error { return os.Chmod(d+"/etc/hosts", 0o600) }, workload.Yes},
		"removed":         {func(d string) error { return os.Remove(d + "/etc/hosts") }, workload.Yes},
		"removed tree":    {func(d string) error { return os.RemoveAll(d + "/a") }, workload.Yes},
		"made and removed": {func(d string) error {
			return errors.Join(os.WriteFile(d+"/tmp", nil, 0o644), os.Remove(d+"/tmp"))
		}, workload.Yes},
		"whiteout":  {func(d string) error { return makeEntry(d+"/w", false, "whiteout") }, workload.Yes},
		"link":      {func(d string) error { return os.Symlink("/", d+"/l") }, workload.Yes},
		"very many": {func(d string) error { return many(d, 3000) }, workload.Yes},
	} {
		t.Run(name, func(t *testing.T) {
			dir := build(t, map[string]string{"etc/hosts": "host1", "a/b/c/": "", "outside": "->/", "pipe": "fifo"})
			before, truncated, err := UpperEntries(dir, MaxEntries)
			if err != nil || truncated {
				t.Fatal(truncated, err)
			}
			if err := c.change(dir); err != nil {
				t.Fatal(err)
			}
			if got, err := Wrote(before, dir); err != nil || got != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func many(dir string, n int) error {
	for i := range n {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func TestWroteIsUnknownWhenItCannotBeTold(t *testing.T) {
	dir := t.TempDir()
	if err := many(dir, 20); err != nil {
		t.Fatal(err)
	}
	for _, most := range []int{0, 1, 20} { // 21 with the directory itself
		before, truncated, err := UpperEntries(dir, most)
		if err != nil || !truncated || len(before.seen) != most {
			t.Errorf("bound %d: %d entries, truncated %v, %v", most, len(before.seen), truncated, err)
		}
		if got, err := Wrote(before, dir); got != workload.Unknown || err != nil {
			t.Errorf("bound %d: %q, %v", most, got, err)
		}
	}
	if got, err := Wrote(Entries{}, dir); got != workload.Unknown || err != nil {
		t.Errorf("no entries taken before: %q, %v", got, err)
	}
	before, truncated, err := UpperEntries(dir, 21)
	if err != nil || truncated {
		t.Fatal(truncated, err)
	}
	gone := filepath.Join(dir, "gone")
	if got, err := Wrote(before, gone); got != workload.Unknown || err == nil {
		t.Errorf("directory gone: %q, %v", got, err)
	}
	if _, _, err := UpperEntries(gone, 21); err == nil {
		t.Error("entries of a directory that is not there")
	}
}

// A tree deeper than a path may be long ends the walk, not the process.
func TestVeryDeepTrees(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("d", 200)
	here, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := here.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := here.OpenRoot(name)
		here.Close()
		if err != nil {
			t.Fatal(err)
		}
		here = next
	}
	here.Close()
	_, truncated, err := UpperEntries(dir, MaxEntries)
	if err != nil || !truncated {
		t.Errorf("truncated %v, %v; want true", truncated, err)
	}
	if _, _, _, err := Open([]string{dir}).Lookup(strings.Repeat("/"+name, 30)); err == nil {
		t.Error("found a path longer than the kernel takes")
	}
}
