package owner

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

func TestMain(m *testing.M) {
	runtime.LockOSThread() // Pdeathsig of a child's heirs is that of the thread
	var last *os.File      // a child's last connection
	child.Main(m, func(words []string) (string, error) { return obey(words, &last) })
}

// obey connects to an address and says where from; "heirs PATH" has another program inherit the last connection, and says its number.
func obey(words []string, last **os.File) (string, error) {
	if words[0] == "heirs" {
		cmd := exec.Command(words[1], "1000")
		cmd.ExtraFiles = []*os.File{*last}
		_, _ = cmd.StdinPipe() // so that one that reads its input waits
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return "", err
		}
		return strconv.Itoa(cmd.Process.Pid), nil
	}
	c, err := net.Dial("tcp", words[0])
	if err != nil {
		return "", err
	}
	*last, err = c.(*net.TCPConn).File()
	return c.LocalAddr().String(), err
}

// process is a child in a namespace.
type process struct{ *child.Process }

func start(t testing.TB, ns *enter.Namespace, path string) process {
	t.Helper()
	return process{child.StartAs(t, path, ns, "")}
}

func (p process) say(t testing.TB, words ...string) string {
	t.Helper()
	answer, err := p.Ask(t, words...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (p process) connect(t testing.TB, to string) Connection {
	t.Helper()
	local, err := netip.ParseAddrPort(p.say(t, to))
	if err != nil {
		t.Fatal(err)
	}
	return Connection{local, netip.MustParseAddrPort(to)}
}

// copied is this test's program under another name.
func copied(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/" + name
	if err := os.WriteFile(path, b, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func listen(t testing.TB, ns *enter.Namespace, address string) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

func newNamespace(t testing.TB) *enter.Namespace {
	t.Helper()
	root.Test(t)
	return network.Of(t)
}

func TestRootFind(t *testing.T) {
	ns := newNamespace(t)
	listen(t, ns, ":7777")
	one, two := copied(t, "one"), copied(t, "two")
	a, b := start(t, ns, one), start(t, ns, two)
	both := []int{a.PID, b.PID}
	for _, to := range []string{"127.0.0.1:7777", "[::1]:7777"} {
		for _, p := range []struct {
			process
			path string
		}{{a, one}, {b, two}} {
			c := p.connect(t, to)
			if got, err := Find(t.Context(), ns, both, c); err != nil || got.Executable != p.path || got.PID != p.PID {
				t.Errorf("%s opened %v: %+v, %v", p.path, c, got, err)
			}
			c.Local = netip.AddrPortFrom(c.Local.Addr(), c.Local.Port()^1)
			if got, err := Find(t.Context(), ns, both, c); !errors.Is(err, ErrUnknown) {
				t.Errorf("a connection that is not there: %+v, %v", got, err)
			}
		}
	}
	c := a.connect(t, "127.0.0.1:7777")
	if got, err := Find(t.Context(), ns, []int{b.PID}, c); !errors.Is(err, ErrUnknown) {
		t.Errorf("among others: %+v, %v", got, err)
	}
	if got, err := Find(t.Context(), newNamespace(t), both, c); !errors.Is(err, ErrUnknown) {
		t.Errorf("in another namespace: %+v, %v", got, err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := Find(over, ns, both, c); !errors.Is(err, ErrUnknown) || !errors.Is(err, context.Canceled) {
		t.Errorf("out of time: %+v, %v", got, err)
	}
}

// A connection that another program inherited is nobody's for certain; a child that runs the same program changes nothing.
func TestRootFindHeirs(t *testing.T) {
	ns := newNamespace(t)
	listen(t, ns, ":7777")
	program := copied(t, "server")
	p := start(t, ns, program)
	c := p.connect(t, "127.0.0.1:7777")
	heir := func(program string) int {
		pid, err := strconv.Atoi(p.say(t, "heirs", program))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	same := heir(program)
	if got, err := Find(t.Context(), ns, []int{same, p.PID}, c); err != nil || got.PID != min(p.PID, same) || got.Executable != program {
		t.Errorf("%+v, %v", got, err)
	}
	other := heir("/bin/sleep")
	if got, err := Find(t.Context(), ns, []int{same, other, p.PID}, c); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "have the connection") {
		t.Errorf("%+v, %v", got, err)
	}
}

// BenchmarkRootFind is a search among ten processes.
func BenchmarkRootFind(b *testing.B) {
	ns := newNamespace(b)
	listen(b, ns, ":7777")
	program := copied(b, "one")
	var pids []int
	var c Connection
	for range 10 {
		p := start(b, ns, program)
		pids = append(pids, p.PID)
		for range 10 {
			c = p.connect(b, "127.0.0.1:7777")
		}
	}
	for b.Loop() {
		if _, err := Find(b.Context(), ns, pids, c); err != nil {
			b.Fatal(err)
		}
	}
}
