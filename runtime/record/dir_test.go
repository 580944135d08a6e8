package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

var update = flag.Bool("update", false, "rewrite golden files")

var id = workload.ID{Namespace: "k8s.io", Container: "c1"}

// full is a record with every field set, the content of testdata/v1.json.
func full() Record {
	created := time.Date(2026, 5, 4, 3, 2, 1, 500, time.UTC)
	return Record{
		Version: 1, ID: id, Run: "r-1", Bundle: "/run/b", Boot: "boot-1",
		Facts: workload.Facts{
			ID: id, Run: "r-1", Kind: workload.KindContainer, Args: []string{"nginx", "-g", "daemon off;"}, UID: 101,
			Image:      workload.Image{Name: "docker.io/library/nginx:1", Repository: "docker.io/library/nginx"},
			Executable: workload.Executable{Path: "/usr/sbin/nginx", SHA256: strings.Repeat("ab", 32), Bits: 64},
		},
		ShimPID: 100, ShimStart: 12345, PID: 200, PIDStart: 1 << 60,
		Cgroup:       map[string]string{"": "/sys/fs/cgroup/k8s.io/c1"},
		NotifySocket: "/run/ff/n/1.sock", Upper: "/var/lib/containerd/snapshots/7/fs",
		Created: created, Started: created.Add(time.Second),
		Decision: &api.Decision{Version: 1, Time: created, Availability: api.ByDaemon, Profile: "default", Table: []byte{1, 2, 3}, Revision: 1},
	}
}

// TestGoldenV1 pins the format: this very file must be readable for ever.
func TestGoldenV1(t *testing.T) {
	const golden = "testdata/v1.json"
	dir := Dir(t.TempDir())
	if err := dir.Write(full()); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(filepath.Join(string(dir), "k8s.io/c1/record.json"))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(golden, written, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parse(want)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(again, '\n'), written) {
		t.Errorf("the golden record reads as\n%s\nand full() writes\n%s", again, written)
	}
}

func TestWriteReadRemove(t *testing.T) {
	root := filepath.Join(t.TempDir(), "state", "c")
	dir := Dir(root)
	if _, err := dir.Read(id); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read before anything was written: %v", err)
	}
	r := full()
	for range 2 { // the second replaces the first
		r.Run += "x"
		if err := dir.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := dir.Read(id)
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("read %+v, %v\nwrote %+v", got, err, r)
	}
	for path, want := range map[string]fs.FileMode{root: 0o700, root + "/k8s.io/c1": 0o700, root + "/k8s.io/c1/record.json": 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", path, fi.Mode(), err, want)
		}
	}
	if names := names(t, root+"/k8s.io/c1"); len(names) != 1 {
		t.Errorf("left beside the record: %v", names)
	}
	for range 2 {
		if err := dir.Remove(id); err != nil {
			t.Fatal(err)
		}
	}
	if names := names(t, root); len(names) != 0 {
		t.Errorf("left after Remove: %v", names)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestHostileIDs(t *testing.T) {
	parent := t.TempDir()
	dir := Dir(filepath.Join(parent, "c"))
	precious := filepath.Join(parent, "precious")
	if err := os.Mkdir(precious, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []workload.ID{
		{}, {Namespace: "a"}, {Namespace: "..", Container: "precious"}, {Namespace: "a", Container: "../../precious"},
		{Namespace: "a", Container: "x\x00y"}, {Namespace: "a", Container: strings.Repeat("x", 300)}, {Namespace: "a", Container: "."},
	} {
		r := full()
		r.ID = bad
		if err := dir.Write(r); err == nil {
			t.Errorf("wrote a record of %q", bad)
		}
		if _, err := dir.Read(bad); err == nil {
			t.Errorf("read a record of %q", bad)
		}
		if err := dir.Remove(bad); err == nil {
			t.Errorf("removed %q", bad)
		}
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// damage maps a name to what makes a good record directory bad.
var damage = map[string]func(t *testing.T, path string){
	"empty": func(t *testing.T, path string) { write(t, path, "") },
	"cut short": func(t *testing.T, path string) {
		data, _ := os.ReadFile(path)
		write(t, path, string(data[:len(data)/2]))
	},
	"not JSON": func(t *testing.T, path string) { write(t, path, "\x00\x01\x02") },
	"newer version": func(t *testing.T, path string) {
		write(t, path, `{"version":2,"id":{"namespace":"k8s.io","container":"c1"}}`)
	},
	"no version": func(t *testing.T, path string) { write(t, path, `{"id":{"namespace":"k8s.io","container":"c1"}}`) },
	"another container": func(t *testing.T, path string) {
		write(t, path, `{"version":1,"id":{"namespace":"k8s.io","container":"c2"}}`)
	},
	"negative process": func(t *testing.T, path string) {
		write(t, path, `{"version":1,"shim_pid":-1,"id":{"namespace":"k8s.io","container":"c1"}}`)
	},
	"escaping container": func(t *testing.T, path string) {
		write(t, path, `{"version":1,"id":{"namespace":"..","container":"c1"}}`)
	},
	"huge": func(t *testing.T, path string) {
		if err := os.Truncate(path, 1<<40); err != nil {
			t.Fatal(err)
		}
	},
	"a directory": func(t *testing.T, path string) { replace(t, path, func() error { return os.Mkdir(path, 0o700) }) },
	"a FIFO":      func(t *testing.T, path string) { replace(t, path, func() error { return syscall.Mkfifo(path, 0o600) }) },
	"a link": func(t *testing.T, path string) {
		replace(t, path, func() error { return os.Symlink("/etc/passwd", path) })
	},
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func replace(t *testing.T, path string, with func() error) {
	t.Helper()
	if err := errors.Join(os.Remove(path), with()); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			dir := Dir(t.TempDir())
			if err := dir.Write(full()); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(string(dir), "k8s.io/c1/record.json")
			spoil(t, path)
			_, err := dir.Read(id)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("read: %v; want ErrDamaged and the path", err)
			}
			if err := dir.Remove(id); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
	}
}

func TestListReportsAndGoesOn(t *testing.T) {
	dir := Dir(t.TempDir())
	dir.List(func(r Record, err error) bool {
		t.Errorf("empty directory lists %v, %v", r.ID, err)
		return true
	})
	Dir(string(dir) + "/missing").List(func(r Record, err error) bool {
		t.Errorf("missing directory lists %v, %v", r.ID, err)
		return true
	})
	for _, c := range []string{"good1", "bad", "good2"} {
		for _, ns := range []string{"a", "b"} {
			r := full()
			r.ID = workload.ID{Namespace: ns, Container: c}
			if err := dir.Write(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, string(dir)+"/a/bad/record.json", "{")
	if err := os.Remove(string(dir) + "/b/bad/record.json"); err != nil {
		t.Fatal(err)
	}
	write(t, string(dir)+"/stray-file", "")
	write(t, string(dir)+"/a/stray-file", "")
	got := map[string]string{}
	dir.List(func(r Record, err error) bool {
		state := "ok"
		switch {
		case errors.Is(err, ErrDamaged):
			state = "damaged"
		case errors.Is(err, fs.ErrNotExist):
			state = "absent"
		case err != nil:
			state = err.Error()
		}
		got[r.ID.String()] = state
		return true
	})
	want := map[string]string{"a/good1": "ok", "a/good2": "ok", "b/good1": "ok", "b/good2": "ok", "a/bad": "damaged", "b/bad": "absent"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("listed %v\nwant   %v", got, want)
	}
	n := 0
	dir.List(func(Record, error) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("List went on after false: %d", n)
	}
}

func TestWriteErrorsLeaveNothing(t *testing.T) {
	dir := Dir(t.TempDir())
	r := full()
	r.Decision.Table = make([]byte, maxFile)
	if err := dir.Write(r); err == nil {
		t.Error("wrote a record that could not be read back")
	}
	path := filepath.Join(string(dir), "k8s.io/c1", recordName)
	if err := os.MkdirAll(path, 0o700); err != nil { // rename onto a directory fails
		t.Fatal(err)
	}
	if err := dir.Write(full()); err == nil {
		t.Error("replaced a directory")
	}
	if names := names(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("a failed write left %v", names)
	}
	blocked := Dir(filepath.Join(t.TempDir(), "file"))
	write(t, string(blocked), "")
	if err := blocked.Write(full()); err == nil {
		t.Error("wrote below a file")
	}
	reported := false
	blocked.List(func(_ Record, err error) bool { reported = err != nil; return true })
	if !reported {
		t.Error("listing a file reported nothing")
	}
}

// TestConcurrent writes, reads, lists and removes at once: readers see whole
// records or none, and no Write fails because a Remove took its directory.
func TestConcurrent(t *testing.T) {
	dir := Dir(t.TempDir())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := full()
			r.ID.Container = fmt.Sprintf("c%d", w)
			for range 200 {
				if err := dir.Write(r); err != nil {
					t.Error(err)
				}
				if _, err := dir.Read(r.ID); err != nil {
					t.Error(err)
				}
				if err := dir.Remove(r.ID); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				dir.List(func(_ Record, err error) bool {
					if err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
					return true
				})
			}
		})
	}
	wg.Wait()
	if names := names(t, string(dir)); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

func FuzzParse(f *testing.F) {
	golden, err := os.ReadFile("testdata/v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add([]byte(`{"version":1,"id":{"namespace":"a","container":"b"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			return
		}
		if err := r.ID.Validate(); err != nil {
			t.Fatalf("accepted a record with a bad id: %v", err)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := parse(again); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}
