package early

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"google.golang.org/protobuf/proto"
)

func TestSocketPathIsUpstreams(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	for _, containerd := range []string{"/run/containerd/containerd.sock", "relative/c.sock"} {
		want, err := shim.CreateSocketAddress(ctx, "/run/s", containerd, "a.group", false)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := socketPath("/run/s", containerd, "k8s.io", "a.group"); !ok || "unix://"+got != want {
			t.Errorf("%s: %s, want %s", containerd, got, want)
		}
	}
	for _, group := range []string{"", ".", "..", "a/../b", "a//b", "a/"} {
		if got, ok := socketPath("/run/s", "/c.sock", "ns", group); ok {
			t.Errorf("%q: %s", group, got)
		}
	}
	if got, ok := socketPath("/run/s", "", "ns", "one"); ok { // Join would leave out what is empty
		t.Errorf("no address: %s", got)
	}
}

func TestGroup(t *testing.T) {
	for name, test := range map[string]struct {
		spec, group string
		ok          bool
	}{
		"alone":          {`{"ociVersion": "1.1.0"}`, "one", true},
		"in a pod":       {`{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "x": "y"}}`, "pod", true},
		"in a group":     {`{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "group"}}`, "group", true},
		"no JSON":        {`{"annotations": `, "", false},
		"other JSON":     {`{"annotations": ["a"]}`, "", false},
		"1 MiB and more": {`{"x": "` + strings.Repeat("x", maxSpec) + `"}`, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := inBundle(t)
			if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(test.spec), 0o600); err != nil {
				t.Fatal(err)
			}
			if group, ok := groupOf("one"); group != test.group || ok != test.ok {
				t.Errorf("%q %t", group, ok)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		inBundle(t)
		if group, ok := groupOf("one"); ok {
			t.Errorf("%q", group)
		}
	})
}

var started = []string{"-namespace", "ns", "-address", "/c.sock", "-publish-binary", "/bin/containerd", "-id", "one", "start"}

// A second container of a pod finds the shim that is there, and starts none.
func TestShimOfThePod(t *testing.T) {
	bundle := inBundle(t)
	temp, err := os.MkdirTemp("", "ff") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	dir := filepath.Join(temp, "s")
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	path, ok := socketPath(dir, "/c.sock", "ns", "pod")
	if !ok {
		t.Fatal("no path")
	}
	input := encoded(t, unlike(given(t), func(p *bootapi.BootstrapParams) { p.SocketDir = &dir }))
	served, err := listen(dir, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct {
		path string
		mode fs.FileMode
	}{{dir, fs.ModeDir | 0o700}, {path, fs.ModeSocket | 0o600}} {
		if info, err := os.Lstat(of.path); err != nil || info.Mode() != of.mode {
			t.Errorf("%s: %v %v", of.path, info.Mode(), err)
		}
	}
	for range 2 { // the link of the first is replaced
		var stdout bytes.Buffer
		done, _, err := Run(started, bytes.NewReader(input), &stdout)
		if !done || err != nil {
			t.Fatalf("%t %v", done, err)
		}
		var got bootapi.BootstrapResult
		if err := proto.Unmarshal(stdout.Bytes(), &got); err != nil || got.Address != "unix://"+path {
			t.Errorf("%v %v", &got, err)
		}
		if link, err := os.Readlink("s"); err != nil || link != dir {
			t.Errorf("link %q %v", link, err)
		}
	}
	l, err := net.FileListener(served)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := l.Accept(); err != nil || c.Close() != nil {
		t.Errorf("who asked whether somebody listens: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(l.Close(), served.Close()); err != nil {
		t.Fatal(err)
	}
	t.Run("which is dead", func(t *testing.T) {
		var stdout bytes.Buffer
		done, rest, err := Run(started, bytes.NewReader(input), &stdout)
		left, rerr := io.ReadAll(rest)
		if done || err != nil || rerr != nil || stdout.Len() > 0 || !bytes.Equal(left, input) {
			t.Errorf("%t %v %v: %d of %d bytes are left to read", done, err, rerr, len(left), len(input))
		}
	})
}

// What goes wrong before anything was done is upstream's to do, and to tell.
func TestStartLeftToUpstream(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	plain, far := encoded(t, given(t)), encoded(t, unlike(given(t), func(p *bootapi.BootstrapParams) { p.SocketDir = &long }))
	for name, test := range map[string]struct {
		spec, core string
		input      []byte
	}{
		"older containerd":       {"{}", "", nil},
		"no spec":                {"", "", plain},
		"core scheduling":        {"{}", "1", plain},
		"a path that is no name": {`{"annotations": {"io.containerd.runc.v2.group": ".."}}`, "", plain},
		"a path that is too far": {"{}", "", far},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := inBundle(t)
			t.Setenv("SCHED_CORE", test.core)
			if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(test.spec), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout bytes.Buffer
			done, rest, err := Run(started, bytes.NewReader(test.input), &stdout)
			left, rerr := io.ReadAll(rest)
			if done || err != nil || rerr != nil || stdout.Len() > 0 || !bytes.Equal(left, test.input) {
				t.Errorf("%t %v %v: %d of %d bytes are left to read", done, err, rerr, len(left), len(test.input))
			}
			if _, err := os.Lstat("s"); err == nil {
				t.Error("a link was made")
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"PATH=/bin", "GOMAXPROCS=1", "GOMAXPROCSX=1", "odd"}, "GOMAXPROCS=4", "A=b")
	if want := []string{"PATH=/bin", "GOMAXPROCSX=1", "odd", "GOMAXPROCS=4", "A=b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
