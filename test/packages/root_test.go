package packages

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// target is a directory that packages are installed into: enough of a system for maintainer scripts and a daemon.
type target struct {
	dir string
	t   *testing.T
}

// applets are what the maintainer scripts and dpkg's own need.
var applets = []string{"sh", "ls", "rm", "rmdir", "echo", "cat", "true"}

func newRoot(t *testing.T) target {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffroot")
	if err != nil {
		t.Fatal(err)
	}
	r := target{dir, t}
	t.Cleanup(r.remove)
	for _, d := range []string{"bin", "proc", "dev", "tmp", "run", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/rpm", "etc"} {
		if err := os.MkdirAll(r.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("%v (run make setup)", err)
	}
	if err := errors.Join(
		os.WriteFile(r.path("bin/busybox"), busybox, 0o755),
		os.WriteFile(r.path("var/lib/dpkg/status"), nil, 0o644),
		os.WriteFile(r.path("var/lib/dpkg/available"), nil, 0o644),
		unix.Mknod(r.path("dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mount("proc", r.path("proc"), "proc", 0, ""),
	); err != nil {
		t.Fatal(err)
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", r.path("bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// remove ends what still runs in the root and takes it away.
func (r target) remove() {
	if r.exists("usr/bin/forefend") {
		r.in("forefend", "daemon", "--stop")
	}
	if err := unix.Unmount(r.path("proc"), 0); err != nil && !errors.Is(err, unix.EINVAL) {
		r.t.Errorf("unmount: %v", err) // and leave it: RemoveAll would go through it
		return
	}
	if err := os.RemoveAll(r.dir); err != nil {
		r.t.Error(err)
	}
}

func (r target) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

func (r target) exists(path string) bool {
	_, err := os.Lstat(r.path(path))
	return err == nil
}

func (r target) read(path string) string {
	r.t.Helper()
	text, err := os.ReadFile(r.path(path))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// in runs a command inside the root.
func (r target) in(args ...string) (string, error) {
	cmd := exec.Command("chroot", append([]string{r.dir}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (r target) mustIn(args ...string) string {
	r.t.Helper()
	out, err := r.in(args...)
	if err != nil {
		r.t.Fatalf("%v: %v: %s", args, err, out)
	}
	return out
}

// daemon is what the daemon in the root says of itself; the zero value when none runs.
func (r target) daemon() (d struct {
	PID     int
	Version string
}) {
	r.t.Helper()
	cmd := exec.Command("chroot", r.dir, "forefend", "doctor", "--json")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, _ := cmd.Output() // 1: this root lacks much
	var said struct {
		Daemon *struct {
			PID     int
			Version string
		}
	}
	if err := json.Unmarshal(out, &said); err != nil {
		r.t.Fatalf("%v: %q", err, out)
	}
	if said.Daemon != nil {
		d.PID, d.Version = said.Daemon.PID, said.Daemon.Version
	}
	return d
}

// run runs a command of the machine and returns what it said.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
