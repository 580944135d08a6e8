package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/test/processor"
)

// build makes a layer. A name that ends in "/" is a directory, a content that
// starts with "->" a link, "whiteout", "fifo" and "socket" what they say,
// "!…" a program.
func build(t testing.TB, entries map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range entries {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := makeEntry(path, strings.HasSuffix(name, "/"), content); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return dir
}

func makeEntry(path string, dir bool, content string) error {
	target, link := strings.CutPrefix(content, "->")
	program, executable := strings.CutPrefix(content, "!")
	switch {
	case dir:
		return os.MkdirAll(path, 0o755)
	case link:
		return os.Symlink(target, path)
	case content == "whiteout":
		return syscall.Mknod(path, syscall.S_IFCHR, 0) // needs no privilege since Linux 5.8
	case content == "fifo":
		return syscall.Mkfifo(path, 0o755)
	case executable:
		return os.WriteFile(path, []byte(program), 0o755)
	default:
		return os.WriteFile(path, []byte(content), 0o644)
	}
}

func TestLookup(t *testing.T) {
	outside := build(t, map[string]string{"secret": "outside"})
	lower := build(t, map[string]string{
		"usr/bin/tool": "!tool", "usr/bin/old": "old", "usr/lib/x": "x", "gone/inside": "1", "replaced/inside": "1",
		"bin": "->usr/bin", "abs": "->/usr/bin/tool", "up": "->../../../../usr/bin/tool", "escape": "->" + outside + "/secret",
		"escape2": "->../../../../../../../../.." + outside + "/secret", "loop": "->loop", "a": "->b", "b": "->a",
		"deep/er/link": "->../../usr/./lib//x", "dirlink": "->/deep/er", "pipe": "fifo", "tofile": "->usr/bin/tool/",
		"self": "->.", "root": "->/", "empty/": "",
	})
	upper := build(t, map[string]string{
		"usr/bin/old": "whiteout", "usr/bin/new": "new", "gone": "whiteout", "replaced": "file now", "usr/lib/x": "x2",
	})
	tree := Open([]string{upper, filepath.Join(lower, "missing layer"), lower})
	for name, want := range map[string]string{
		"/usr/bin/tool":                        lower + " /usr/bin/tool",
		"usr/bin/tool":                         lower + " /usr/bin/tool",
		"/bin/tool":                            lower + " /usr/bin/tool",
		"/bin/../lib/x":                        upper + " /usr/lib/x",
		"/abs":                                 lower + " /usr/bin/tool",
		"/up":                                  lower + " /usr/bin/tool",
		"/../../usr/bin/new":                   upper + " /usr/bin/new",
		"/deep/er/link":                        upper + " /usr/lib/x",
		"/dirlink/link":                        upper + " /usr/lib/x",
		"/dirlink/..":                          lower + " /deep",
		"/usr/bin":                             upper + " /usr/bin",
		"/":                                    upper + " /",
		"":                                     upper + " /",
		"/root/root/self/self/usr/bin/tool":    lower + " /usr/bin/tool",
		"/replaced":                            upper + " /replaced",
		"/pipe":                                lower + " /pipe",
		"/empty/":                              lower + " /empty",
		"/usr/bin/old":                         "ENOENT",
		"/gone/inside":                         "ENOENT",
		"/gone":                                "ENOENT",
		"/replaced/inside":                     "ENOTDIR",
		"/escape":                              "ENOENT",
		"/escape2":                             "ENOENT",
		"/loop":                                "ELOOP",
		"/a":                                   "ELOOP",
		"/usr/bin/tool/":                       "ENOTDIR",
		"/usr/bin/tool/x":                      "ENOTDIR",
		"/tofile":                              "ENOTDIR",
		"/usr/bin/" + strings.Repeat("n", 300): "ENAMETOOLONG",
		strings.Repeat("/usr/..", 400):         upper + " /",
		strings.Repeat("/usr/..", 580):         upper + " /",
		strings.Repeat("/", 5000):              "ENAMETOOLONG",
	} {
		resolved, host, fi, err := tree.Lookup(name)
		got := ""
		switch {
		case err == nil:
			layer := strings.TrimSuffix(strings.TrimSuffix(host, resolved), "/")
			got = layer + " " + resolved
			if again, err := os.Lstat(host); err != nil || !os.SameFile(again, fi) {
				t.Errorf("%.60s: host path %s is another file, %v", name, host, err)
			}
		case errors.Is(err, syscall.ENOTDIR):
			got = "ENOTDIR"
		case errors.Is(err, syscall.ELOOP):
			got = "ELOOP"
		case errors.Is(err, syscall.ENAMETOOLONG):
			got = "ENAMETOOLONG"
		case errors.Is(err, fs.ErrNotExist):
			got = "ENOENT"
		default:
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.60s: %s\nwant %s", name, got, want)
		}
	}
}

func TestOpenFileOpensRegularFilesOnly(t *testing.T) {
	dir := build(t, map[string]string{"file": "content", "pipe": "fifo", "dir/": "", "link": "->file", "null": "->/dev/null"})
	tree := Open([]string{dir})
	f, resolved, err := tree.OpenFile("/link")
	if err != nil || resolved != "/file" {
		t.Fatalf("%s, %v", resolved, err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); err != nil || string(data) != "content" {
		t.Errorf("read %q, %v", data, err)
	}
	for _, name := range []string{"/pipe", "/dir", "/", "/null", "/missing"} {
		done := make(chan error, 1)
		go func() {
			f, _, err := tree.OpenFile(name)
			if err == nil {
				f.Close()
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("opened %s", name)
			}
		case <-time.After(time.Minute):
			t.Fatalf("opening %s blocks", name)
		}
	}
}

func TestBounds(t *testing.T) {
	dir := build(t, map[string]string{"f": "x"})
	layers := make([]string, maxLayers+1)
	for i := range layers {
		layers[i] = dir
	}
	if _, _, _, err := Open(layers).Lookup("/f"); err == nil {
		t.Error("more layers than overlayfs has were accepted")
	}
	if _, _, _, err := Open([]string{dir + "/f"}).Lookup("/"); err == nil {
		t.Error("a file was accepted as layer")
	}
	if _, _, _, err := Open(nil).Lookup("/f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no layer: %v", err)
	}
	// 39 links of 4000 bytes each to the next: many steps, quickly refused.
	hostile := map[string]string{"d/": ""}
	for i := range 39 {
		hostile[fmt.Sprintf("l%d", i)] = "->" + strings.Repeat("d/../", 790) + fmt.Sprintf("l%d", i+1)
	}
	tree := Open([]string{build(t, hostile)})
	start := processor.Used(t)
	if _, _, _, err := tree.Lookup("/l0"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("chain of long links: %v", err)
	}
	if took := processor.Used(t) - start; took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestDescriptorsAreClosed counts this process's descriptors around lookups of
// every outcome.
func TestDescriptorsAreClosed(t *testing.T) {
	lower := build(t, map[string]string{"d/f": "!x", "l": "->d/f", "loop": "->loop", "d/w": "1", "pipe": "fifo"})
	upper := build(t, map[string]string{"d/w": "whiteout", "d/g": "x"})
	tree := Open([]string{upper, lower})
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	before := count()
	for range 20 {
		for _, name := range []string{"/", "/d", "/d/f", "/l", "/loop", "/d/w", "/missing", "/d/f/x", "/pipe", "/d/f/"} {
			_, _, _, _ = tree.Lookup(name)
			if f, _, err := tree.OpenFile(name); err == nil {
				f.Close()
			}
			_, _ = tree.Executable(t.Context(), []string{name}, "/d:/", "/")
		}
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func FuzzLookup(f *testing.F) {
	outside := f.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), nil, 0o644); err != nil {
		f.Fatal(err)
	}
	f.Add("/a/b/../c", "/l1/x", "../../"+outside+"/secret")
	f.Add("l", outside+"/secret", "/")
	f.Fuzz(func(t *testing.T, name, link1, link2 string) {
		dir := t.TempDir()
		for i, link := range []string{link1, link2} {
			_ = os.Symlink(link, filepath.Join(dir, fmt.Sprintf("l%d", i))) // some names the kernel refuses
		}
		_ = os.MkdirAll(filepath.Join(dir, "a/b"), 0o755)
		_ = os.Symlink("../../l1", filepath.Join(dir, "a/b/c"))
		resolved, host, fi, err := Open([]string{dir}).Lookup(name)
		if err != nil {
			return
		}
		real, err := filepath.EvalSymlinks(host)
		if err != nil || real != host || (host != dir && !strings.HasPrefix(host, dir+"/")) || fi.Mode().Type() == fs.ModeSymlink {
			t.Fatalf("%q gave %q at %q (really %q), %v", name, resolved, host, real, err)
		}
	})
}
