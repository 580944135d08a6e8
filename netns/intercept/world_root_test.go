package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// childMode makes this test binary run a root test in a network namespace of its own.
const childMode = "FOREFEND_INTERCEPT_TEST_CHILD"

// inside runs the test again in a new network namespace, which ends with that process whatever happens. It returns false
// to the outer one once that is over.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childMode) != "" {
		return true
	}
	root.Test(t)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=170s")
	cmd.Env = append(os.Environ(), childMode+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// Addresses of the two ends of the link, the servers' and the container's; each end has two, by which tunnels are told apart.
const (
	server4, server6 = "10.98.0.1", "fd98::1"
	inside4, inside6 = "10.98.0.2", "fd98::2"
	other4           = "10.98.0.3" // the container's address in the other tunnel
)

// world is a namespace with servers, linked to the one the test is in.
type world struct {
	*Engine
	t     testing.TB
	there *enter.Namespace // the servers'
	rules *rules
}

// testMark is on what the engine sends.
const testMark = 0x77

// Way has the decision's endpoint be the tunnel; the dialer below goes by its name.
func (w *world) Way(_ context.Context, _ flow.Context, d flow.Decision) (Way, error) {
	return Way{Tunnel: d.Profile.Endpoint, Mark: testMark}, nil
}

// Dial is Marked's, but that of tunnel "b" comes from another address.
func (w *world) Dial(ctx context.Context, c flow.Context, d flow.Decision) (Upstream, error) {
	if d.Profile.Endpoint != "b" {
		return Marked{w}.Dial(ctx, c, d)
	}
	way := Way{Tunnel: "b", Mark: testMark}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(other4)}, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		return errors.Join(raw.Control(func(fd uintptr) { failed = way.take(int(fd)) }), failed)
	}}
	conn, err := dialer.DialContext(ctx, "tcp", c.Destination.String())
	if err != nil {
		return Upstream{}, err
	}
	return Upstream{Conn: conn.(*net.TCPConn), Tunnel: "b", Verified: true}, nil
}

// newWorld makes the servers' namespace, the link, and the engine with its redirect.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, rules: &rules{}, there: network.Of(t)}
	w.rules.set(func(flow.Context) (flow.Decision, error) { return endpoint("a"), nil })
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "here"}, PeerName: "there"}))
	peer, err := netlink.LinkByName("there")
	must(t, err)
	must(t, netlink.LinkSetNsFd(peer, w.there.FD()))
	must(t, network.Up("lo"))
	must(t, network.Up("here", inside4+"/24", other4+"/24", inside6+"/64"))
	w.in(func() error { return network.Up("there", server4+"/24", server6+"/64") })

	w.Engine, err = New(w.rules, w, Limits{})
	must(t, err)
	listeners, err := Listen(0)
	must(t, err)
	port := listeners[0].Addr().(*net.TCPAddr).Port
	for _, l := range listeners {
		go func() { _ = w.Serve(l) }()
	}
	t.Cleanup(w.Close)
	redirect(t, port)
	return w
}

// redirect leads new connections to the engine, in one transaction.
func redirect(t testing.TB, port int) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`table inet test {
	chain output {
		type nat hook output priority -100
		meta mark %d return
		oif lo return
		meta l4proto tcp redirect to :%d
	}
}`, testMark, port))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// in does something in the servers' namespace.
func (w *world) in(do func() error) {
	w.t.Helper()
	must(w.t, w.there.Do(do))
}

// listen opens a server's socket on all its addresses.
func (w *world) listen(port int) net.Listener {
	w.t.Helper()
	var l net.Listener
	w.in(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	w.t.Cleanup(func() { _ = l.Close() })
	return l
}

// run runs a client and returns what it printed.
func (w *world) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is not installed (make setup-test installs it)", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "http_proxy=", "https_proxy=", "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY=*", "no_proxy=*")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s %q: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}
