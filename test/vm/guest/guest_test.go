package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/vm/wire"
)

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"a/tool": 0o644, "b/tool": 0o755, "b/dir/x": 0o755} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"A=b", "PATH=" + dir + "/none:" + dir + "/a:" + dir + "/b"}
	for name, want := range map[string]string{
		"tool": dir + "/b/tool", "/bin/x": "/bin/x", "./x": "/cwd/x", "sub/x": "/cwd/sub/x", "dir": "", "nothing": "",
	} {
		got, err := lookPath(name, "/cwd", env)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := lookPath("sh", "/", nil); err != nil || !filepath.IsAbs(got) {
		t.Errorf("without a PATH: %q, %v", got, err)
	}
}

func TestExitStatus(t *testing.T) {
	for raw, want := range map[unix.WaitStatus]int{0: 0, 7 << 8: 7, 255 << 8: 255, unix.WaitStatus(unix.SIGKILL): 137, unix.WaitStatus(unix.SIGABRT) | 0x80: 134} {
		if got := exitStatus(raw); got != want {
			t.Errorf("%#x: %d, want %d", raw, got, want)
		}
	}
}

func TestClosing(t *testing.T) {
	if got := closing("x/y", 0, 1500*time.Millisecond); got != "ok  \tx/y (in the VM)\t1.5s\n" {
		t.Errorf("%q", got)
	}
	if got := closing("x/y", 2, time.Second); got != "FAIL\tx/y (in the VM)\t1.0s\n" {
		t.Errorf("%q", got)
	}
}

func TestOpenPort(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	for port, name := range map[string]string{"vport0p1": "console", "vport0p2": Port} {
		if err := os.Mkdir(filepath.Join(sys, port), 0o755); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{filepath.Join(sys, port, "name"): name + "\n", filepath.Join(dev, port): port} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	f, err := openPort(sys, dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if filepath.Base(f.Name()) != "vport0p2" {
		t.Errorf("opened %s", f.Name())
	}
	if _, err := openPort(dev, dev); err == nil {
		t.Error("opened a port that is not there")
	}
}

func TestHostsTemporary(t *testing.T) {
	got := hostsTemporary(wire.Request{Modules: "/tmp/clone/.cache/vm/modules", Steps: []wire.Step{
		{Dir: "/tmp/clone/test/e2e", Args: []string{"/tmp/clone/.cache/vm/tests/e2e", "-test.v"}}, {Dir: "/srv", Args: []string{"cat", "/tmp/other/file"}},
	}})
	if want := []string{"/tmp/clone", "/tmp/other"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := hostsTemporary(wire.Request{Modules: "/srv/tmp/modules", Steps: []wire.Step{{Dir: "/tmp", Args: []string{"true"}}}}); len(got) != 0 {
		t.Errorf("%q of nothing below /tmp", got)
	}
}
