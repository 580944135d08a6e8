package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/processor"
)

// planted makes a layer of what script says: directories, files, links anywhere, FIFOs, whiteouts, deep paths.
func planted(t testing.TB, dir string, script *[]byte) {
	t.Helper()
	next := func() byte {
		if len(*script) == 0 {
			return 0
		}
		b := (*script)[0]
		*script = (*script)[1:]
		return b
	}
	names := []string{"bin", "a", "b", "sh", "etc", "l", "bin/sh", "a/b", "a/b/c", "l/x", strings.Repeat("n", 255)}
	targets := []string{"/bin", "../..", "a", "/a/b", "../../../../../etc/passwd", "l", "/proc/self/root", ".", "sh", "//bin//sh", strings.Repeat("../", 60) + "etc"}
	for n := 0; n < 24 && len(*script) > 0; n++ {
		at := filepath.Join(dir, names[int(next())%len(names)])
		// What the kernel refuses (below a link or a file, there already) is simply not planted.
		if real, err := filepath.EvalSymlinks(filepath.Dir(at)); err != nil || real != filepath.Dir(at) && next()%2 == 0 || !strings.HasPrefix(real, dir) {
			continue
		}
		switch next() % 8 {
		case 0:
			_ = os.MkdirAll(at, 0o755)
		case 1, 2:
			if f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755); err == nil { // never into a FIFO
				_, _ = f.Write([]byte{next(), 'x'})
				_ = f.Close()
			}
		case 3, 4:
			_ = os.Symlink(targets[int(next())%len(targets)], at)
		case 5:
			_ = unix.Mkfifo(at, 0o755)
		case 6:
			_ = unix.Mknod(at, unix.S_IFCHR, 0) // a whiteout; needs root
		case 7:
			deep := at
			for range int(next()) % 40 {
				deep = filepath.Join(deep, strings.Repeat("d", 100))
			}
			_ = os.MkdirAll(deep, 0o755)
		}
	}
}

// FuzzTree looks for programs and files in layers that hold anything. What it finds lies in a layer and is what it
// says; nothing blocks, nothing stays open, and no walk misses a change.
func FuzzTree(f *testing.F) {
	const dir, file, link, fifo, whiteout, deep = 0, 1, 3, 5, 6, 7
	f.Add([]byte{0, dir, 6, file, 1, 5, link, 0}, "sh", "/bin:/l", uint8(2))
	f.Add([]byte{0, dir, 6, link, 8, 3, fifo, 5, link, 5}, "/l/x", "", uint8(1))
	f.Add([]byte{1, link, 4, 0, dir, 6, whiteout, 0, dir, 6, file, 7}, "sh", "/a:bin::/bin", uint8(3))
	f.Add([]byte{1, deep, 39, 5, link, 10, 4, link, 6, 10, file, 1}, "../../etc/passwd", "/proc/self/root/bin", uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, name, search string, layers uint8) {
		root, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for i := range int(layers)%4 + 1 {
			layer := filepath.Join(root, fmt.Sprint(i))
			if err := os.Mkdir(layer, 0o755); err != nil {
				t.Fatal(err)
			}
			planted(t, layer, &script)
			all = append(all, layer)
		}
		before, began := open(t), processor.Used(t)
		tree := Open(append(all, filepath.Join(root, "absent")))
		if exe, err := tree.Executable(t.Context(), []string{name}, search, "/"); err == nil {
			checkFound(t, tree, root, exe)
		}
		if _, host, _, err := tree.Lookup(name); err == nil && host != root && !strings.HasPrefix(host, root+"/") {
			t.Errorf("%q is found at %s", name, host)
		}
		entries, truncated, err := UpperEntries(all[0], 100)
		if err != nil {
			t.Fatal(err)
		}
		if wrote, err := Wrote(entries, all[0]); err != nil || wrote == workload.Yes || wrote == workload.No && truncated {
			t.Errorf("nothing was written, and yet: %q %v", wrote, err)
		}
		if os.WriteFile(filepath.Join(all[0], "new"), nil, 0o600) == nil && !truncated { // a name that planted does not use
			if wrote, err := Wrote(entries, all[0]); err != nil || wrote != workload.Yes {
				t.Errorf("a new file is missed: %q %v", wrote, err)
			}
		}
		if took := processor.Used(t) - began; took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		if after := open(t); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

// checkFound compares a program that was found with the file of that name.
func checkFound(t *testing.T, tree Tree, root string, exe workload.Executable) {
	t.Helper()
	_, host, info, err := tree.Lookup(exe.Path)
	if err != nil || !info.Mode().IsRegular() || !strings.HasPrefix(host, root+"/") {
		t.Fatalf("%+v lies at %s: %v", exe, host, err)
	}
	// Below links out of the layers there is another file of that name, or none.
	if real, err := filepath.EvalSymlinks(host); err != nil || real != host {
		t.Fatalf("%+v is really %s: %v", exe, real, err)
	}
	body, err := os.ReadFile(host)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(body); exe.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("%+v has the hash %x", exe, sum)
	}
}

func open(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EINTR) {
		t.Fatal(err)
	}
	return len(entries)
}
