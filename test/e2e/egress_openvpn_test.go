package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/network"
	far "forefend.dev/forefend/test/openvpn"
)

// newVPN is an OpenVPN gateway in front of a world, and the [[tunnel]] that leads to it.
func newVPN(t testing.TB, w *harness.World, name string) (server *far.Server, config string) {
	t.Helper()
	authority := far.NewAuthority(t, "authority")
	id, slot := authority.Issue(t, "gateway", true), authority.Issue(t, "slot", false)
	server = far.Serve(t, w.Namespace(), authority, id, nil, nil, "duplicate-cn")
	keys := t.TempDir()
	for file, body := range map[string][]byte{"ca": authority.PEM, "crt": slot.Cert, "key": slot.Key} {
		if err := os.WriteFile(filepath.Join(keys, file), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return server, fmt.Sprintf("[[tunnel]]\nname = %q\nkind = \"openvpn\"\nencryption = \"standard\"\nendpoints = [%q]\nca_file = %q\npeer_fingerprints = [%q]\n"+
		"[[tunnel.slot]]\ncert_file = %q\nkey_file = %q\naddresses = [\"10.9.0.0/24\"]\n",
		name, server.At, filepath.Join(keys, "ca"), id.Fingerprint, filepath.Join(keys, "crt"), filepath.Join(keys, "key"))
}

// TestEgressOpenVPN: a container's request leaves by an OpenVPN tunnel, as a capture of its gateway's port shows. With tunneld killed
// its openvpn is gone and nothing leaves, by the tunnel or beside it, until the next tunneld has connected anew.
func TestEgressOpenVPN(t *testing.T) {
	rules := t.TempDir()
	write(t, filepath.Join(rules, "routes.toml"), threeRoutes)
	o, behind := newOutside(t), newOutside(t)
	direct, tunnelled := web(t, o.World, "direct"), web(t, behind.World, "vpn-1")
	server, config := newVPN(t, behind.World, "vpn-1")
	h := newHost(t, harness.WithConfig(egressBy(rules)+config))
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	uplink, err := o.Capture("out1")
	if err != nil {
		t.Fatal(err)
	}
	sent := sentTo(t, server.At)
	fetch := func() string { return h.fetch(id, "198.51.100.1", "x-forefend-data: internal") }
	// Its device is not one that waits: the first requests may come while it connects.
	eventually(t, "a request by the tunnel", func() bool { return fetch() == "vpn-1" })
	if sent() == 0 {
		t.Error("no packet reached the gateway's port")
	}

	before, killed := tunnelled.Load(), h.tunneldOf()
	if killed == 0 {
		t.Fatal("no tunneld is found")
	}
	if err := unix.Kill(killed, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request by the tunnel again", func() bool { return fetch() == "vpn-1" })
	if now := h.tunneldOf(); now == killed || now == 0 {
		t.Errorf("tunneld was process %d, and is %d", killed, now)
	}
	if server.Clients() < 2 {
		t.Errorf("the gateway let %d clients in: the openvpn of the tunneld that was killed was not replaced", server.Clients())
	}
	if n := tunnelled.Load() - before; n != 1 {
		t.Errorf("%d requests came out of the tunnel after the kill, 1 was answered", n)
	}
	if segments, n := uplink.Packets(); len(segments) != 0 || direct.Load() != 0 {
		t.Errorf("by the container's own uplink: %d requests, %d TCP segments of %d packets", direct.Load(), len(segments), n)
	}
}

// sentTo counts the packets to a UDP port of this machine's loopback from now on. None may show what requests say.
func sentTo(t testing.TB, at netip.AddrPort) (packets func() int64) {
	t.Helper()
	home, err := enter.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	var all, plain atomic.Int64
	stop, err := network.Watch(home, "lo", func(packet []byte, outgoing bool) {
		if !outgoing && len(packet) > 28 && packet[0] == 0x45 && packet[9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(packet[22:]) == at.Port() {
			all.Add(1)
			if bytes.Contains(packet, []byte("x-forefend-data")) {
				plain.Add(1)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if n := plain.Load(); n > 0 {
			t.Errorf("%d of %d packets to %s can be read", n, all.Load(), at)
		}
	})
	return all.Load
}
