package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/root"
)

// overlay mounts lower (topmost first) with a new upper directory.
func overlay(t *testing.T, lower []string) (merged, upper string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"merged", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged, upper = filepath.Join(dir, "merged"), filepath.Join(dir, "upper")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s/work,redirect_dir=off,metacopy=off", strings.Join(lower, ":"), upper, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return merged, upper
}

// scramble changes a mounted tree at random: only the kernel writes the
// whiteouts and opaque directories of the layers under test. The tree has links
// that lead out of it, which nothing may be written through.
func scramble(t *testing.T, r *rand.Rand, dir string, n int) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for range n {
		path := randomPath(r, 3)
		switch r.IntN(7) {
		case 0, 1:
			_ = root.MkdirAll(path, 0o755)
		case 2:
			_ = root.WriteFile(path, fmt.Appendf(nil, "%d", r.Int()), 0o755)
		case 3:
			_ = root.RemoveAll(path)
		case 4:
			_ = root.RemoveAll(path)
			_ = root.MkdirAll(path, 0o755) // opaque where it was before
		case 5:
			_ = root.Symlink(randomTarget(r), path)
		case 6:
			_ = root.Rename(path, randomPath(r, 2))
		}
	}
}

func randomPath(r *rand.Rand, most int) string {
	parts := make([]string, 1+r.IntN(most))
	for i := range parts {
		parts[i] = string(rune('a' + r.IntN(3)))
	}
	return strings.Join(parts, "/")
}

func randomTarget(r *rand.Rand) string {
	target := strings.Repeat("../", r.IntN(4)) + randomPath(r, 3)
	if r.IntN(3) == 0 {
		target = "/" + target
	}
	return target
}

// TestRootSameAsOverlay compares every lookup with what the kernel finds in
// the mounted filesystem: an independent implementation of the same rules.
func TestRootSameAsOverlay(t *testing.T) {
	root.Test(t)
	found := 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		layers := []string{t.TempDir()}
		scramble(t, r, layers[0], 40)
		var merged string
		for range 3 {
			var upper string
			merged, upper = overlay(t, layers)
			scramble(t, r, merged, 25)
			layers = append([]string{upper}, layers...)
			// The upper directory becomes a layer of the next mount.
			if len(layers) < 4 {
				if err := unix.Unmount(merged, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		tree := Open(layers)
		for range 300 {
			name := randomTarget(r) + strings.Repeat("/", r.IntN(2))
			if compare(t, tree, merged, name) {
				found++
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d, layers %q", seed, layers)
		}
	}
	t.Logf("%d of 12000 names exist", found)
	if found < 1000 {
		t.Errorf("only %d names exist: the test compares little", found)
	}
}

// compare reports whether name exists.
func compare(t *testing.T, tree Tree, merged, name string) bool {
	t.Helper()
	wantPath, wantErr := kernelLookup(merged, name)
	got, host, fi, err := tree.Lookup(name)
	if wantErr != nil {
		if !errors.Is(err, wantErr) && !(errors.Is(wantErr, fs.ErrNotExist) && errors.Is(err, fs.ErrNotExist)) {
			t.Errorf("%s: %v, the kernel says %v", name, err, wantErr)
		}
		return false
	}
	if err != nil || got != wantPath {
		t.Errorf("%s: %s, %v; the kernel finds %s", name, got, err, wantPath)
		return true
	}
	real, err := os.Lstat(merged + wantPath)
	if err != nil {
		t.Fatal(err)
	}
	if real.Mode() != fi.Mode() {
		t.Errorf("%s: mode %v, the kernel says %v", name, fi.Mode(), real.Mode())
	}
	if fi.Mode().IsRegular() {
		a, err1 := os.ReadFile(host)
		b, err2 := os.ReadFile(merged + wantPath)
		if err1 != nil || err2 != nil || string(a) != string(b) {
			t.Errorf("%s: content %q, the kernel reads %q; %v, %v", name, a, b, err1, err2)
		}
	}
	return true
}

// kernelLookup resolves name as if merged were the root.
func kernelLookup(merged, name string) (string, error) {
	root, err := unix.Open(merged, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(root, name, &how)
	for errors.Is(err, unix.EAGAIN) { // somebody renamed something somewhere
		fd, err = unix.Openat2(root, name, &how)
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return "/" + strings.TrimPrefix(strings.TrimPrefix(path, merged), "/"), err
}

// What only the mounted filesystem can answer is an error, not a wrong answer.
func TestRootUnsupportedOverlayFeatures(t *testing.T) {
	root.Test(t)
	lower := build(t, map[string]string{"d/f": "!old", "moved/f": "!x"})
	upper := build(t, map[string]string{"moved/": "", "meta": "!\x00\x00"})
	for path, name := range map[string]string{"moved": "trusted.overlay.redirect", "meta": "trusted.overlay.metacopy"} {
		if err := unix.Setxattr(filepath.Join(upper, path), name, []byte("/d"), 0); err != nil {
			t.Fatal(err)
		}
	}
	tree := Open([]string{upper, lower})
	for _, program := range []string{"/moved/f", "/meta", "f", "meta"} {
		got, err := tree.Executable(t.Context(), []string{program}, "/moved:/:/d", "/")
		if !errors.Is(err, errors.ErrUnsupported) || got != (workload.Executable{}) {
			t.Errorf("%s: %+v, %v; want ErrUnsupported", program, got, err)
		}
	}
}

func TestRootWroteThroughAnOverlay(t *testing.T) {
	root.Test(t)
	lower := build(t, map[string]string{"etc/passwd": "root", "var/log/": ""})
	for name, c := range map[string]struct {
		change func(merged string) error
		want   workload.Tristate
	}{
		"reads and stats":  {func(m string) error { _, err := os.ReadFile(m + "/etc/passwd"); return err }, workload.No},
		"open for writing": {func(m string) error { return touch(m+"/etc/passwd", os.O_RDWR) }, workload.Yes}, // a read-only root would refuse it
		"removal":          {func(m string) error { return os.Remove(m + "/etc/passwd") }, workload.Yes},
		"log and remove": {func(m string) error {
			return errors.Join(touch(m+"/var/log/x", os.O_CREATE), os.Remove(m+"/var/log/x"))
		}, workload.Yes},
	} {
		t.Run(name, func(t *testing.T) {
			merged, upper := overlay(t, []string{lower})
			if err := os.MkdirAll(merged+"/mnt/point", 0o755); err != nil { // as runc
				t.Fatal(err)
			}
			before, _, err := UpperEntries(upper, MaxEntries)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.change(merged); err != nil {
				t.Fatal(err)
			}
			if got, err := Wrote(before, upper); err != nil || got != c.want {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func touch(path string, flags int) error {
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
