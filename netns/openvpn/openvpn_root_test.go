package openvpn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/link"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/test/network"
	far "forefend.dev/forefend/test/openvpn"
	"forefend.dev/forefend/test/root"
)

const patience = 15 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// site is a gateway and the authority of both sides.
type site struct {
	authority *far.Authority
	gateway   far.Identity
	crypt     []byte
	server    *far.Server
	behind    *enter.Namespace
}

func newSite(t testing.TB) *site {
	t.Helper()
	root.Test(t)
	s := &site{authority: far.NewAuthority(t, "authority"), crypt: far.StaticKey(), behind: network.Of(t)}
	s.gateway = s.authority.Issue(t, "gateway", true)
	s.server = far.Serve(t, s.behind, s.authority, s.gateway, s.crypt, nil, "duplicate-cn")
	return s
}

func (s *site) config(t testing.TB) Config {
	t.Helper()
	id := s.authority.Issue(t, "slot", false)
	return Config{
		CA: s.authority.PEM, Cert: id.Cert, Key: id.Key, TLSCrypt: s.crypt, Fingerprints: []string{s.gateway.Fingerprint}, PeerName: "gateway",
		Endpoint: s.server.At, Allowed: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}, MTU: 1420, DeadAfter: 6 * time.Second,
	}
}

func start(t testing.TB, c Config, within time.Duration) (*Process, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	p, err := Start(ctx, c, func(int) error { return nil })
	if p != nil {
		t.Cleanup(func() {
			_ = p.Close()
			<-p.Ended()
		})
	}
	return p, err
}

// left are TUNs of ours in this process's network.
func left(t testing.TB) (names []string) {
	t.Helper()
	links, err := link.Whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, prefix) {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// TestRootProcess: a process is let in, its TUN is in the namespace that wants it, it can do nothing else, and goes when told.
func TestRootProcess(t *testing.T) {
	s := newSite(t)
	begun := time.Now()
	p, err := start(t, s.config(t), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("let in after %s", time.Since(begun))
	inside := network.Of(t)
	plan := p.Plan()
	if len(plan.Addresses) != 1 || !strings.HasPrefix(plan.Addresses[0].String(), "10.9.0.") {
		t.Errorf("addresses %v", plan.Addresses)
	}
	begun = time.Now()
	index := marks.NewIndex()
	d, err := plan.Make(inside, "ff0", index)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("placed within %s", time.Since(begun))
	if names := left(t); len(names) != 0 {
		t.Errorf("TUNs in the node's network: %v", names)
	}
	if n := indexOf(t, inside); n != index {
		t.Errorf("its index is %d, not %d", n, index)
	}
	if stats, err := d.Stats(); err != nil || stats.Handshake.IsZero() || stats.Fault != "" {
		t.Errorf("%+v, %v", stats, err)
	}
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", fmt.Sprintf("Uid:\t%d\t%d", p.uid, p.uid), "Groups:\t \n"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the process has not %q:\n%s", want, body)
		}
	}
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
		if err != nil || strings.Contains(string(b), "PRIVATE") || len(b) > 200 {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := inside.Do(func() error { _, err := netlink.LinkByName("ff0"); return err }); err == nil {
		t.Error("the TUN is still there")
	}
	<-p.Ended()
	eventually(t, "the server told", func() bool { return strings.Contains(s.server.Log(), "exit message received by peer") })
}

// TestRootReasons: who is not let in says why.
func TestRootReasons(t *testing.T) {
	s := newSite(t)
	other := far.NewAuthority(t, "other")
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"fingerprint": {func(c *Config) { c.Fingerprints = []string{other.Issue(t, "x", true).Fingerprint} }, "has not the fingerprint"},
		"peer name":   {func(c *Config) { c.PeerName = "another" }, "another name than peer_name"},
		"authority":   {func(c *Config) { c.CA = other.PEM }, "not of the ca_file's authority"},
		"certificate": {func(c *Config) { id := other.Issue(t, "slot", false); c.Cert, c.Key = id.Cert, id.Key }, "this slot's certificate"},
		"key":         {func(c *Config) { c.Key = other.Issue(t, "slot", false).Key }, "key does not belong to its certificate"},
		"shared key":  {func(c *Config) { c.TLSCrypt = far.StaticKey() }, "gateway does not answer"},
		"addresses":   {func(c *Config) { c.Allowed = []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")} }, "in none of the slot's addresses"},
		"nobody":      {func(c *Config) { c.Endpoint = netip.MustParseAddrPort("127.0.0.1:9") }, "nobody listens"},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.config(t)
			test.change(&c)
			p, err := start(t, c, 4*time.Second)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
			if p != nil {
				t.Error("it was let in")
			}
			if strings.Contains(fmt.Sprint(err), "PRIVATE") {
				t.Error("the error tells a key")
			}
		})
	}
	if names := left(t); len(names) != 0 {
		t.Errorf("TUNs left: %v", names)
	}
}

// TestRootNotReady: of a process that its starter refuses nothing is left, its management connection included.
func TestRootNotReady(t *testing.T) {
	s := newSite(t)
	c := s.config(t)
	refused := errors.New("no place for it")
	refuse := func() {
		t.Helper()
		if _, err := Start(t.Context(), c, func(int) error { return refused }); !errors.Is(err, refused) {
			t.Fatal(err)
		}
	}
	refuse() // by then the runtime has the descriptors that it keeps
	before := sockets(t)
	for range 5 {
		refuse()
	}
	if now := sockets(t); now > before {
		t.Errorf("%d sockets after five processes, %d before", now, before)
	}
	if names := left(t); len(names) != 0 {
		t.Errorf("TUNs left: %v", names)
	}
}

// sockets counts the open ones of this process.
func sockets(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// indexOf is the index of a namespace's only TUN.
func indexOf(t *testing.T, in *enter.Namespace) (n int) {
	t.Helper()
	if err := in.Do(func() error {
		l, err := netlink.LinkByName("ff0")
		if err == nil {
			n = l.Attrs().Index
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	return n
}

// TestRootRestart: a server that goes and comes is connected again, under the same address and with the same TUN; a process that is
// killed has ended.
func TestRootRestart(t *testing.T) {
	s := newSite(t)
	p, err := start(t, s.config(t), patience)
	if err != nil {
		t.Fatal(err)
	}
	inside := network.Of(t)
	d, err := p.Plan().Make(inside, "ff0", 0)
	if err != nil {
		t.Fatal(err)
	}
	before := indexOf(t, inside)
	s.server.Stop()
	eventually(t, "a fault", func() bool { stats, _ := d.Stats(); return stats.Fault != "" && !stats.Ended })
	s.server.Start(t)
	eventually(t, "connected again", func() bool { stats, _ := d.Stats(); return stats.Fault == "" })
	if indexOf(t, inside) != before {
		t.Error("the TUN is another one")
	}
	if err := p.cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Ended()
	if stats, err := d.Stats(); err != nil || !stats.Ended || stats.Fault == "" {
		t.Errorf("%+v, %v", stats, err)
	}
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Error(err)
	}
}
