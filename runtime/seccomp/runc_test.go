package seccomp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/test/root"
)

// requireRoot skips tests that start containers unless they were asked for.
func requireRoot(t testing.TB) {
	t.Helper()
	root.Test(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the probe knows amd64's numbers only")
	}
}

// runcPath finds the runc that `make setup` installs.
func runcPath(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/runc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("real runc is needed: %v; run make setup", err)
	}
	return path
}

// probeDir is where probe built the helper; TestMain removes it.
var probeDir string

// probe builds the helper that runs inside the containers.
var probe = sync.OnceValues(func() (path string, err error) {
	if probeDir, err = os.MkdirTemp("", "ff-probe"); err != nil {
		return "", err
	}
	path = filepath.Join(probeDir, "probe")
	build := exec.Command("go", "build", "-o", path, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return string(out), err
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if probeDir != "" {
		_ = os.RemoveAll(probeDir)
	}
	os.Exit(code)
}

// box is a real runc container with the probe in it.
type box struct {
	t      testing.TB
	id     string
	dir    string // bundle, runc state and listener socket
	spec   *specs.Spec
	socket string
}

// newBox prepares a bundle; nothing runs yet.
func newBox(t testing.TB) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "ff")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &box{t: t, id: filepath.Base(dir), dir: dir, socket: filepath.Join(dir, "s", "n.sock")}
	for _, d := range []string{"rootfs/proc", "rootfs/dev", "rootfs/bin"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	program, err := probe()
	if err != nil {
		t.Fatalf("build probe: %v\n%s", err, program)
	}
	for from, to := range map[string]string{program: "probe", "/bin/busybox": "bin/sh"} {
		content, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "rootfs", to), content, 0o755))
	}
	b.spec = boxSpec(b.id)
	return b
}

func boxSpec(id string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_SETPCAP"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/probe"}, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
}

// compile puts the compiled profile into the spec and returns the table.
func (b *box) compile(req Request) *Table {
	b.t.Helper()
	if req.Requested == nil {
		req.Requested = DefaultProfile(b.spec)
	}
	req.ListenerPath = b.socket
	profile, table, err := Compile(req)
	must(b.t, err)
	b.spec.Linux.Seccomp = profile
	return table
}

func (b *box) runc(args ...string) *exec.Cmd {
	return exec.Command(runcPath(b.t), append([]string{"--root", filepath.Join(b.dir, "run")}, args...)...)
}

// write commits the bundle's config.
func (b *box) write() {
	b.t.Helper()
	raw, err := json.Marshal(b.spec)
	must(b.t, err)
	must(b.t, os.WriteFile(filepath.Join(b.dir, "config.json"), raw, 0o600))
	b.t.Cleanup(func() { _ = b.runc("delete", "--force", b.id).Run() })
}

// output runs the container with these probe commands to its end.
func (b *box) output(commands ...string) (string, error) {
	b.t.Helper()
	b.spec.Process.Args = append([]string{"/probe"}, commands...)
	b.write()
	out, err := within10s(b.t, b.runc("run", "--bundle", b.dir, b.id))
	return out, err
}

// within10s runs cmd; a container that hangs on an unanswered call fails the test.
func within10s(t testing.TB, cmd *exec.Cmd) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// session is a running container whose probe takes commands.
type session struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// open starts cmd, which must run the probe without arguments.
func open(t testing.TB, cmd *exec.Cmd) *session {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	s := &session{t: t, cmd: cmd, in: in, out: bufio.NewReaderSize(out, 1<<20)}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if got := s.line(); got != "ready" {
		t.Fatalf("probe said %q, want ready", got)
	}
	return s
}

func (s *session) do(command string) string {
	s.t.Helper()
	_, err := io.WriteString(s.in, command+"\n")
	must(s.t, err)
	return s.line()
}

func (s *session) line() string {
	s.t.Helper()
	line, err := s.out.ReadString('\n')
	if err != nil {
		s.t.Fatalf("read from probe: %v (%q)", err, line)
	}
	return strings.TrimSpace(line)
}

// end lets the probe exit and waits for its runc.
func (s *session) end() {
	s.t.Helper()
	must(s.t, s.in.Close())
	must(s.t, s.cmd.Wait())
}

func (b *box) start() *session {
	b.t.Helper()
	b.spec.Process.Args = []string{"/probe"}
	b.write()
	return open(b.t, b.runc("run", "--bundle", b.dir, b.id))
}

// attach makes a supervisor with recorded events and attaches the box to it.
func (b *box) attach(table *Table) (*Container, *record) {
	b.t.Helper()
	r := &record{}
	s := NewSupervisor(Config{OnEvent: r.add, OnError: func(id string, err error) { b.t.Logf("supervisor: %s: %v", id, err) }})
	c, err := s.Attach(context.Background(), b.id, b.socket, table)
	must(b.t, err)
	b.t.Cleanup(func() { must(b.t, s.Close()) })
	return c, r
}

// record keeps events.
type record struct {
	mu     sync.Mutex // guards events
	events []Event
}

func (r *record) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// find returns the events for a call.
func (r *record) find(name string) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Event
	for _, e := range r.events {
		if e.Syscall == name {
			found = append(found, e)
		}
	}
	return found
}

// eventually polls until ok, for at most a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
