package gate

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

func TestMain(m *testing.M) {
	conns := map[string]net.Conn{}
	child.Main(m, func(words []string) (string, error) { return "", obey(words, conns) })
}

// wait is how long an answer may take that will come. An emulated machine takes longer: FOREFEND_GATE_WAIT=10s.
var wait = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("FOREFEND_GATE_WAIT")); err == nil {
		return d
	}
	return 2 * time.Second
}()

// world is two network namespaces with a link between them: the containers' and the rest of the world.
type world struct {
	inside, outside *enter.Namespace
	cgroup          string
	gates           *Gates
}

// addresses of the two ends; outside has more, which inside reaches by its default routes.
const (
	inside4, inside6   = "10.99.0.2", "fd99::2"
	outside4, outside6 = "10.99.0.1", "fd99::1"
)

var more = []string{"192.0.2.1", "192.0.2.9", "198.51.100.1", "2001:db8::1", "2001:db8:9::1"}

// v2Root is the v2 hierarchy of this machine.
func v2Root(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var fs unix.Statfs_t
		if unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("no cgroup v2 hierarchy is mounted")
	return ""
}

func newCgroup(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(v2Root(t), fmt.Sprintf("forefend-gate-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 200 { // its processes are about to be gone
			if err := os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("cgroup %s is not removed", dir)
	})
	return dir
}

func newWorld(t testing.TB) *world {
	t.Helper()
	root.Test(t)
	w := &world{inside: network.Of(t), outside: network.Of(t)}
	w.link(t)
	var err error
	if w.gates, err = Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.gates.Close(); err != nil {
			t.Error(err)
		}
	})
	w.cgroup = newCgroup(t, "own")
	for _, a := range append([]string{outside4, outside6}, more...) {
		w.serve(t, a)
	}
	return w
}

func (w *world) link(t testing.TB) {
	t.Helper()
	network.In(t, w.outside, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644) })
	err := network.Join(
		network.End{In: w.outside, Name: "out0", Addresses: append([]string{outside4 + "/24", outside6 + "/64"}, more...)},
		network.End{In: w.inside, Name: "in0", Addresses: []string{inside4 + "/24", inside6 + "/64"}, Gateways: []string{outside4, outside6}})
	if err != nil {
		t.Fatal(err)
	}
}

// port is where everybody serves, by TCP and UDP.
const port = "7777"

// serve echoes on an address outside.
func (w *world) serve(t testing.TB, addr string) {
	t.Helper()
	network.In(t, w.outside, func() error {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", net.JoinHostPort(addr, port))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		t.Cleanup(func() { _, _ = l.Close(), p.Close() })
		go echoStreams(l)
		go echoDatagrams(p)
		return nil
	})
}

func echoStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(c, c) }()
	}
}

func echoDatagrams(p net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = p.WriteTo(b[:n], from)
	}
}

// process is a child inside.
type process struct{ *child.Process }

func (w *world) start(t testing.TB, cgroup string) *process {
	t.Helper()
	return &process{child.Start(t, w.inside, cgroup)}
}

func (p *process) must(t testing.TB, words ...string) {
	t.Helper()
	if _, err := p.Ask(t, words...); err != nil {
		t.Errorf("%v: %v", words, err)
	}
}

func (p *process) mustFail(t testing.TB, words ...string) {
	t.Helper()
	if _, err := p.Ask(t, words...); err == nil {
		t.Errorf("%v: went through", words)
	}
}

// obey does what a test tells a child to; conns are its connections by name.
func obey(words []string, conns map[string]net.Conn) error {
	switch verb, arg := words[0], words[1]; verb {
	case "listen":
		l, err := net.Listen("tcp", arg)
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", arg)
		if err != nil {
			return err
		}
		go echoStreams(l)
		go echoDatagrams(p)
		return nil
	case "dial": // name address
		c, err := net.DialTimeout("tcp", words[2], wait/4)
		if err != nil {
			return err
		}
		conns[arg] = c
		return echoed(c, wait)
	case "patient": // dial until the kernel gives up
		c, err := net.DialTimeout("tcp", arg, time.Minute)
		if err != nil {
			return err
		}
		return c.Close()
	case "echo":
		return echoed(conns[arg], wait/4)
	case "eventually":
		return echoed(conns[arg], 10*wait) // the kernel tries again after as long as it has been in vain
	case "udp":
		c, err := net.Dial("udp", arg)
		if err != nil {
			return err
		}
		defer c.Close()
		return echoed(c, wait/4)
	case "flood": // address duration: as many datagrams as it can
		c, err := net.Dial("udp", arg)
		if err != nil {
			return err
		}
		defer c.Close()
		d, err := time.ParseDuration(words[2])
		for end := time.Now().Add(d); err == nil && time.Now().Before(end); {
			_, _ = c.Write([]byte{0}) // refused while the network is off
		}
		return err
	case "turns": // address number: that many datagrams there and back
		return turns(arg, words[2])
	case "raw": // an ICMP echo, as ping sends it
		return pinged(arg)
	case "packet": // a frame past all of IP
		return framed(arg)
	}
	return fmt.Errorf("unknown: %v", words)
}

var sent byte

// echoed writes a byte and reads until it comes back.
func echoed(c net.Conn, within time.Duration) error {
	sent++
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{sent}); err != nil {
		return err
	}
	for b := []byte{0}; ; {
		if _, err := io.ReadFull(c, b); err != nil || b[0] == sent {
			return err
		}
	}
}

func pinged(to string) error {
	c, err := net.Dial("ip4:icmp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(wait / 4)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 128))
	return err
}
