package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/rewrite/rawjson"
)

// newBundle makes a bundle directory with the given config.json.
func newBundle(t testing.TB, config []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, configName), config, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t testing.TB, dir string) *Bundle {
	t.Helper()
	b, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func content(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// files lists what is in a bundle directory.
func files(t testing.TB, dir string) []string {
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

func TestLoadErrors(t *testing.T) {
	many := []byte(`{"mounts":[` + strings.Repeat(`{},`, rawjson.MaxValues) + `{}]}`)
	for name, c := range map[string]struct {
		config string
		want   string
	}{
		"empty":            {"", "not a JSON object"},
		"null":             {" null", "not a JSON object"},
		"array":            {`[{}]`, "not a JSON object"},
		"garbage":          {"{\n  \"root\": {\n    \"path\": rootfs\n  }\n}", "config.json:3:13: invalid character"},
		"cut off":          {"{\n  \"root\": {", "config.json:2:11: unexpected end"},
		"trailing garbage": {"{}\n}", "config.json:2:1: invalid character"},
		"wrong type":       {"{\n\"process\": {\"args\": \"sh\"}}", "config.json:2:24: json: cannot unmarshal"},
		"number too large": {`{"linux":{"resources":{"memory":{"limit":99999999999999999999}}}}`, "config.json:1:"},
		"too deep":         {`{"x":` + strings.Repeat(`[`, 20000), "config.json:1:"},
		"too many values":  {string(many), "the most is 131072"},
		"too large":        {strings.Repeat(" ", MaxSize+1), "the most is 16777216"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(newBundle(t, []byte(c.config)))
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), configName) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLoadNoFile(t *testing.T) {
	if _, err := Load(t.TempDir()); !errdefs.IsNotFound(err) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, configName), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errdefs.IsInvalidArgument(err) { // and does not wait for a writer
		t.Errorf("a pipe: %v", err)
	}
}

func TestLoadLargest(t *testing.T) {
	config := `{"annotations":{"long":"` + strings.Repeat(`,{[\"`, (MaxSize-100)/5) + `"}}`
	if got := load(t, newBundle(t, []byte(config))).Spec().Annotations["long"]; len(got) < MaxSize/2 {
		t.Errorf("%d bytes left", len(got))
	}
}

// TestCommitNothing: without a change no file is touched.
func TestCommitNothing(t *testing.T) {
	for name, raw := range corpus(t) {
		dir := newBundle(t, raw)
		before, _ := os.Stat(filepath.Join(dir, configName))
		if err := load(t, dir).Commit(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		after, _ := os.Stat(filepath.Join(dir, configName))
		if !os.SameFile(before, after) || content(t, dir, configName) != string(raw) || len(files(t, dir)) != 1 {
			t.Errorf("%s: changed; files %v", name, files(t, dir))
		}
	}
}

func TestCommit(t *testing.T) {
	raw := `{"ociVersion":"1.3.0", "future": {"n": 1.0, "big": 123456789012345678901234567890},
		"process":{"cwd":"/","args":["sh"],"new":["p"],"user":{"uid":7,"gid":0,"new":1}},
		"root":{"path":"r","new":true},
		"mounts":[{"destination":"/a","new":1},{"destination":"/b","new":2}],
		"linux":{"new":{"x":[1,2]},"resources":{"new":"r","memory":{"limit":5,"new":"m"},"devices":[{"allow":false,"access":"rwm","new":3}]}}}`
	dir := newBundle(t, []byte(raw))
	b := load(t, dir)
	s := b.Spec()
	s.Root.Readonly = true
	s.Process.NoNewPrivileges = true
	limit := int64(1 << 60)
	s.Linux.Resources.Memory.Limit = &limit
	s.Linux.Resources.Devices[0].Allow = true
	s.Mounts = []specs.Mount{{Destination: "/new"}, {Destination: "/too"}, s.Mounts[1]}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	want := `{"ociVersion":"1.3.0","future":{"n": 1.0, "big": 123456789012345678901234567890},` +
		`"process":{"cwd":"/","args":["sh"],"new":["p"],"user":{"uid":7,"gid":0,"new":1},"noNewPrivileges":true},` +
		`"root":{"path":"r","new":true,"readonly":true},` +
		`"mounts":[{"destination":"/new"},{"destination":"/too"},{"destination":"/b","new":2}],` +
		`"linux":{"new":{"x":[1,2]},"resources":{"new":"r","memory":{"limit":1152921504606846976,"new":"m"},"devices":[{"allow":true,"access":"rwm","new":3}]}}}`
	if got := content(t, dir, configName); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := content(t, dir, OriginalName); got != raw {
		t.Errorf("original: %s", got)
	}
	info, err := os.Stat(filepath.Join(dir, OriginalName))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("original has mode %v, %v", info.Mode(), err)
	}

	// A second change starts from the first; the original stays the first one's.
	s.Hostname = "h"
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir, configName); got != strings.TrimSuffix(want, "}")+`,"hostname":"h"}` {
		t.Errorf("second: %s", got)
	}
	if got := content(t, dir, OriginalName); got != raw || len(files(t, dir)) != 2 {
		t.Errorf("original after the second: %s, files %v", got, files(t, dir))
	}
	if !reflect.DeepEqual(load(t, dir).Spec(), s) {
		t.Error("what was written is not what was asked for")
	}
}

func TestCommitKeepsOwnerAndMode(t *testing.T) {
	dir := newBundle(t, []byte(`{"hostname":"a"}`))
	path := filepath.Join(dir, configName)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	uid := os.Getuid()
	if uid == 0 {
		uid = 1234
	}
	if err := os.Chown(path, uid, os.Getgid()); err != nil {
		t.Fatal(err)
	}
	b := load(t, dir)
	b.Spec().Hostname = "b"
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	checkOwner(t, path, uid)
	for range 2 {
		if err := Restore(dir); err != nil {
			t.Fatal(err)
		}
		checkOwner(t, path, uid)
		if got := content(t, dir, configName); got != `{"hostname":"a"}` || len(files(t, dir)) != 1 {
			t.Errorf("restored %s, files %v", got, files(t, dir))
		}
	}
}

func checkOwner(t *testing.T, path string, uid int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o640 || int(info.Sys().(*syscall.Stat_t).Uid) != uid {
		t.Errorf("%v %+v %v", info.Mode(), info.Sys(), err)
	}
}

func TestRestoreAtAnyTime(t *testing.T) {
	if err := Restore(filepath.Join(t.TempDir(), "gone")); err != nil {
		t.Errorf("no bundle: %v", err)
	}
	dir := newBundle(t, []byte(`{"hostname":"a"}`))
	if err := Restore(dir); err != nil || content(t, dir, configName) != `{"hostname":"a"}` {
		t.Errorf("nothing committed: %v", err)
	}
	b := load(t, dir)
	b.Spec().Hostname = "b"
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, configName)); err != nil {
		t.Fatal(err)
	}
	if err := Restore(dir); err != nil || content(t, dir, configName) != `{"hostname":"a"}` {
		t.Errorf("config.json was gone: %v", err)
	}
}

// TestCommitFails: a commit that fails changes nothing and leaves no file.
func TestCommitFails(t *testing.T) {
	raw := `{"hostname":"a","Hostname":"b","process":{"cwd":"/","Cwd":"/x","noNewPrivileges":true,"NoNewPrivileges":true}}`
	dir := newBundle(t, []byte(raw))
	b := load(t, dir)
	b.Spec().Process.NoNewPrivileges = false
	if err := b.Commit(); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a key twice: %v", err)
	}
	if content(t, dir, configName) != raw || len(files(t, dir)) != 1 {
		t.Errorf("files %v: %s", files(t, dir), content(t, dir, configName))
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	b.Spec().Process.NoNewPrivileges = true
	b.Spec().Domainname = "d"
	if err := b.Commit(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no bundle: %v", err)
	}
}

// FuzzRoundTrip: whatever the spec, a commit without a change is none, and after a
// change the file holds it or the commit failed. Files are left out: they are slow.
func FuzzRoundTrip(f *testing.F) {
	for _, raw := range corpus(f) {
		f.Add(raw)
	}
	f.Add([]byte(`{"Linux":{"Resources":null,"resources":{}},"hooks":{"x":1},"mounts":[null],"root":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		spec, err := decode(configName, raw)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			return
		}
		before, err := rawjson.Text(spec)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := rawjson.Edit(raw, before, spec); err != nil || !bytes.Equal(out, raw) {
			t.Fatalf("nothing changed, and yet: %v %s", err, out)
		}
		_ = Check(spec, CheckOptions{})
		change(spec)
		out, err := rawjson.Edit(raw, before, spec)
		if errors.Is(err, rawjson.ErrAmbiguous) {
			return
		}
		back, err := decode(configName, out)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := json.Marshal(spec)
		got, _ := json.Marshal(back)
		if string(got) != string(want) {
			t.Fatalf("got %s\nwant %s", got, want)
		}
	})
}

// change makes changes of the kinds that steps make.
func change(s *specs.Spec) {
	if s.Root != nil {
		s.Root.Readonly = !s.Root.Readonly
	}
	if s.Process != nil {
		s.Process.NoNewPrivileges = !s.Process.NoNewPrivileges
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE"})
	}
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	limit := int64(77)
	s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/x")
	if n := len(s.Mounts); n > 0 {
		s.Mounts = s.Mounts[:n-1]
	}
}

// BenchmarkLoadCommit is what a Create costs in this package, on a tmpfs as
// containerd's bundles are.
func BenchmarkLoadCommit(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "forefend-bundle-*")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	raw := corpus(b)["cri-container"]
	if err := os.WriteFile(filepath.Join(dir, configName), raw, 0o644); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		bundle := load(b, dir)
		change(bundle.Spec())
		if err := Check(bundle.Spec(), CheckOptions{}); err != nil {
			b.Fatal(err)
		}
		if err := bundle.Commit(); err != nil {
			b.Fatal(err)
		}
		if err := Restore(dir); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargest is the same for the costliest spec that is let in.
func BenchmarkLargest(b *testing.B) {
	raw := []byte(`{"process":{"cwd":"/","env":["` + strings.Repeat("x", MaxSize-4*rawjson.MaxValues) + `"]},"mounts":[` + strings.Repeat(`{},`, rawjson.MaxValues/2-100) + `{}]}`)
	b.ReportAllocs()
	for b.Loop() {
		spec, err := decode(configName, raw)
		if err != nil {
			b.Fatal(err)
		}
		before, err := rawjson.Text(spec)
		if err != nil {
			b.Fatal(err)
		}
		change(spec)
		if _, err := rawjson.Edit(raw, before, spec); err != nil {
			b.Fatal(err)
		}
	}
}
