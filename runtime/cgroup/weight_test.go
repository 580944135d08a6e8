package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/test/root"
)

func TestIOWeight(t *testing.T) {
	for name, c := range map[string]struct {
		file, was string
		v1        bool
		n         int64
		want      string
	}{
		"v1":                                  {"blkio.bfq.weight", "100", true, 300, "300"},
		"v1, an older kernel":                 {"blkio.weight", "500", true, 10, "10"},
		"v2 with BFQ":                         {"io.bfq.weight", "default 100", false, 300, "300"},
		"v2 with a cost model, wider":         {"io.weight", "default 100", false, 1000, "10000"},
		"v2 with a cost model, less than all": {"io.weight", "default 100", false, 5, "1"},
		"back":                                {"io.weight", "default 7", false, 0, "100"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := fixture(t, map[string]string{c.file: c.was})
			g := Group{Unified: dir}
			if c.v1 {
				g = Group{Paths: map[string]string{"blkio": dir}}
			}
			if err := g.SetIOWeight(c.n); err != nil {
				t.Error(err)
			}
			if is, _ := os.ReadFile(filepath.Join(dir, c.file)); string(is) != c.want {
				t.Errorf("wrote %q, want %q", is, c.want)
			}
		})
	}
	if n, err := readWeight(filepath.Join(fixture(t, map[string]string{"io.weight": "default 42\n8:0 7\n"}), "io.weight")); n != 42 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestIOWeightRefused(t *testing.T) {
	for name, g := range map[string]Group{
		"blkio.bfq.weight": {Paths: map[string]string{"blkio": t.TempDir()}},
		"io.weight":        {Unified: t.TempDir()},
	} {
		if err := g.SetIOWeight(50); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "no "+name) {
			t.Errorf("%s: %v", name, err)
		}
		if err := g.SetIOWeight(0); err != nil {
			t.Errorf("%s: no weight is no error: %v", name, err)
		}
	}
	gone := Group{Unified: filepath.Join(t.TempDir(), "gone")}
	if err := gone.SetIOWeight(50); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a group that is gone: %v", err)
	}
	stuck := fixture(t, map[string]string{"io.weight/x": ""})
	if err := (Group{Unified: stuck}).SetIOWeight(50); err == nil {
		t.Error("a file that cannot be written is no error")
	}
}

func TestWeighable(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		ok    bool
	}{
		"nothing to look at":        {nil, true},
		"without the controller":    {[]string{"a/io.pressure"}, true},
		"a kernel without weights":  {[]string{"a/io.stat", "b/io.stat"}, false},
		"one that has BFQ's":        {[]string{"a/io.stat", "b/io.bfq.weight"}, true},
		"the cost model's is there": {[]string{"a/io.stat", "a/io.weight"}, true},
	} {
		files := map[string]string{}
		for _, f := range c.files {
			files[f] = ""
		}
		err := weighable(fixture(t, files), weights2)
		if (err == nil) != c.ok || err != nil && (!errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "io.bfq.weight or io.weight")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRootIOWeight: what this kernel does is what it is said to do.
func TestRootIOWeight(t *testing.T) {
	root.Test(t)
	_, g := newGroup(t)
	for _, dir := range g.Map() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	possible, err := IOWeighable(), g.SetIOWeight(300)
	if err != nil && !errors.Is(err, errdefs.ErrFailedPrecondition) || err == nil && possible != nil {
		t.Fatalf("said to be possible: %v; done: %v", possible, err)
	}
	if err := g.SetIOWeight(0); err != nil {
		t.Error(err)
	}
}
