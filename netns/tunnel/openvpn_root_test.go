package tunnel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/openvpn"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/network"
	far "forefend.dev/forefend/test/openvpn"
	"forefend.dev/forefend/test/root"
)

// vpn is an OpenVPN gateway. Behind it is nothing but what a test puts there.
type vpn struct {
	behind    *enter.Namespace
	authority *far.Authority
	identity  far.Identity
	server    *far.Server
}

// newVPN makes one, with further lines of its configuration.
func newVPN(t testing.TB, more ...string) *vpn {
	t.Helper()
	root.Test(t)
	v := &vpn{authority: far.NewAuthority(t, "authority"), behind: network.Of(t)}
	v.identity = v.authority.Issue(t, "gateway", true)
	v.server = far.Serve(t, v.behind, v.authority, v.identity, nil, nil, more...)
	return v
}

// tunnel configures one to the gateway, whose certificates and keys are in files.
func (v *vpn) tunnel(t testing.TB, name string, slots, ready int) Tunnel {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, body []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	r := Tunnel{
		Name: name, Kind: OpenVPN, Class: "test", Encryption: flow.Standard, Endpoints: []string{v.server.At.String()}, MTU: 1420, DeadAfter: 6 * time.Second,
		OpenVPN: OpenVPNSettings{CAFile: write("ca", v.authority.PEM), Fingerprints: []string{v.identity.Fingerprint}, Ready: ready},
	}
	for n := range slots {
		id := v.authority.Issue(t, fmt.Sprint("slot-", n), false)
		r.Slots = append(r.Slots, Slot{
			CertFile: write(fmt.Sprint(n, ".crt"), id.Cert), KeyFile: write(fmt.Sprint(n, ".key"), id.Key), Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")},
		})
	}
	return r
}

// processes are the openvpns that are this process's, but for servers.
func processes(t testing.TB) []int {
	t.Helper()
	return processesOf(t, os.Getpid())
}

// processesOf are a tunneld's openvpns.
func processesOf(t testing.TB, tunneld int) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var pid, parent int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // it may be gone
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, rest, ok := strings.Cut(string(status), "\nPPid:"); ok {
			_, _ = fmt.Sscan(rest, &parent)
		}
		if strings.TrimSpace(string(name)) == openvpn.Binary && parent == tunneld && strings.Contains(string(status), "NoNewPrivs:\t1") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestRootOpenVPN: devices wait, connected, and are taken at once; a process that crashes is replaced, a tunneld that ends leaves
// none, and the next one takes its namespaces up under the same marks.
func TestRootOpenVPN(t *testing.T) {
	v := newVPN(t)
	ctx, dir := t.Context(), t.TempDir()
	tunnels := []Tunnel{{Name: "direct", Kind: Direct}, v.tunnel(t, "vpn", 3, 1)}
	s, stop := serve(t, dir, tunnels...)
	standing := func() api.Tunnel {
		list, err := s.Tunnels(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return list.Tunnels[1]
	}
	eventually(t, "a device that waits", func() bool { return standing().Health == string(Up) && len(processes(t)) == 1 })
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	begun := time.Now()
	first, err := s.Attach(ctx, ask)
	if err != nil || first.Tunnel != "vpn" {
		t.Fatalf("%+v, %v", first, err)
	}
	took := time.Since(begun)
	t.Logf("attached within %s", took)
	if took > time.Second {
		t.Error("that is the time to connect: none has waited")
	}
	eventually(t, "another one that waits", func() bool { return len(processes(t)) == 2 })
	if use := standing().Uses; len(use) != 1 || use[0].Engine != "openvpn" || use[0].Handshake.IsZero() || use[0].Device != first.Device {
		t.Errorf("%+v", use)
	}

	// All crash. What went through goes nowhere; who asks gets another process's device.
	for _, pid := range processes(t) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the way taken away", func() bool { return len(devices(t, c)) == 0 })
	again, err := s.Attach(ctx, ask)
	if err != nil || again.Tunnel != "vpn" {
		t.Fatalf("after a crash: %+v, %v", again, err)
	}
	eventually(t, "one that waits after the crash", func() bool { return len(processes(t)) == 2 })

	stop()
	if left := processes(t); len(left) != 0 {
		t.Errorf("without their tunneld there are %v", left)
	}
	if got := devices(t, c); len(got) != 0 {
		t.Errorf("devices without their tunneld: %v", got)
	}
	s, _ = serve(t, dir, tunnels...)
	eventually(t, "the device again", func() bool { return len(devices(t, c)) == 1 })
	if same, err := s.Attach(ctx, ask); err != nil || same != again {
		t.Errorf("after a restart: %+v, want %+v, %v", same, again, err)
	}
	if r, err := s.Try(ctx, api.TryRequest{Tunnel: "vpn"}); err != nil || r.Handshake <= 0 || r.Engine != "openvpn" {
		t.Errorf("a trial: %+v, %v", r, err)
	}
}

// TestRootOpenVPNFailOver: a gateway that is not the one that was meant, or falls silent, is passed over for another one of its class,
// and for none that is weaker; the tunnel says why.
func TestRootOpenVPNFailOver(t *testing.T) {
	v, spare := newVPN(t), newGateway(t)
	ctx := t.Context()
	wrong := v.tunnel(t, "a-wrong", 1, 0)
	wrong.OpenVPN.Fingerprints = []string{v.authority.Issue(t, "other", true).Fingerprint}
	s, _ := serve(t, t.TempDir(), Tunnel{Name: "direct", Kind: Direct}, wrong, v.tunnel(t, "b-vpn", 2, 1), spare.tunnel(t, "c-wg", 1))
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	health := func(n int) (string, string) {
		list, err := s.Tunnels(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return list.Tunnels[n].Health, list.Tunnels[n].Reason
	}
	if _, err := s.Try(ctx, api.TryRequest{Tunnel: "a-wrong"}); err == nil || !strings.Contains(err.Error(), "has not the fingerprint") {
		t.Errorf("a trial of the wrong one: %v", err)
	}
	only := ask
	only.Profile.Endpoint = "a-wrong"
	if got, err := s.Attach(ctx, only); err == nil || !strings.Contains(err.Error(), "has not the fingerprint") {
		t.Errorf("the wrong one alone: %+v, %v", got, err)
	}
	if h, why := health(1); h != string(Down) || !strings.Contains(why, "has not the fingerprint") {
		t.Errorf("the wrong one is %s: %s", h, why)
	}
	if got, err := s.Attach(ctx, ask); err != nil || got.Tunnel != "b-vpn" {
		t.Fatalf("%+v, %v", got, err)
	}
	v.server.Stop()
	eventually(t, "another tunnel", func() bool {
		got, err := s.Attach(ctx, ask)
		return err == nil && got.Tunnel == "c-wg"
	})
	if h, why := health(2); h != string(Down) || !strings.Contains(why, "nothing was heard of the gateway") && !strings.Contains(why, "nobody listens") {
		t.Errorf("the silent one is %s: %s", h, why)
	}
	v.server.Start(t)
	eventually(t, "the gateway back", func() bool { h, _ := health(2); return h == string(Up) })
}
