package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/test/certificates"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// gatewayRig is a gateway's machine: a namespace with an uplink, and its file.
type gatewayRig struct {
	ns, world *enter.Namespace
	dir, file string
	authority *certificates.Authority
}

func newGatewayRig(t *testing.T) *gatewayRig {
	t.Helper()
	root.Test(t)
	r := &gatewayRig{dir: t.TempDir(), authority: certificates.New(t), ns: network.Of(t), world: network.Of(t)}
	err := network.Join(network.End{In: r.ns, Name: "up0", Addresses: []string{"198.51.100.2/24"}, Gateways: []string{"198.51.100.1"}},
		network.End{In: r.world, Name: "world0", Addresses: []string{"198.51.100.1/24"}})
	if err != nil {
		t.Fatal(err)
	}
	r.file = filepath.Join(r.dir, "gateway.toml")
	key := make([]byte, 32)
	key[0] = 8
	if err := os.WriteFile(filepath.Join(r.dir, "wg.key"), []byte(base64.StdEncoding.EncodeToString(key)), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// write writes the file, with these clients.
func (r *gatewayRig) write(t *testing.T, clients ...string) {
	t.Helper()
	cert, key := r.authority.Issue(t, "127.0.0.1")
	text := fmt.Sprintf("listen = \"127.0.0.1:7443\"\nca = %q\ncert = %q\nkey = %q\npools = [\"10.8.0.0/24\"]\nstate = %q\nterm = \"10s\"\n"+
		"[wireguard]\nprivate_key_file = %q\nendpoints = [\"127.0.0.1:51820\"]\n", r.authority.File, cert, key, filepath.Join(r.dir, "state"), filepath.Join(r.dir, "wg.key"))
	for _, c := range clients {
		text += fmt.Sprintf("[[client]]\nname = %q\nleases = 5\n", c)
	}
	if err := errors.Join(os.WriteFile(r.file+"~", []byte(text), 0o600), os.Rename(r.file+"~", r.file)); err != nil {
		t.Fatal(err)
	}
}

// start runs the command in the namespace.
func (r *gatewayRig) start(t *testing.T) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return startIn(t, r.ns, exec.Command(path, "--config", r.file, "gateway"))
}

// startIn starts a command in a network namespace. It ends with the test.
func startIn(t *testing.T, ns *enter.Namespace, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	cmd.Stderr = os.Stderr
	if err := ns.Do(cmd.Start); err != nil { // a process is born where the thread is that starts it
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// end ends the command with a signal.
func end(t *testing.T, cmd *exec.Cmd, with os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(with); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if with == syscall.SIGTERM && err != nil {
		t.Errorf("the gateway ended with %v", err)
	}
}

// client asks by a relay: its connections are made outside.
func (r *gatewayRig) client(t *testing.T, name string) *provision.Client {
	t.Helper()
	at, stop, err := network.Relay(r.ns, "127.0.0.1:7443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	c, err := provision.NewClient("https://"+at.String(), r.authority.Credentials(t, name, r.authority))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// setting reads one of the namespace's.
func (r *gatewayRig) setting(t *testing.T, name string) (value string) {
	t.Helper()
	err := r.ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/" + name)
		value = strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// left is what a gateway left in its namespace.
func (r *gatewayRig) left(t *testing.T) (all []string) {
	t.Helper()
	err := r.ns.Do(func() error {
		if out, err := exec.Command("nft", "list", "tables").Output(); err != nil || strings.Contains(string(out), "forefend") {
			all = append(all, fmt.Sprintf("rules %s %v", out, err))
		}
		if _, err := net.InterfaceByName("ffgw"); err == nil {
			all = append(all, "device")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.setting(t, "ipv4/ip_forward") != "0" {
		all = append(all, "forwarding")
	}
	return all
}

// TestRootGateway runs the command: it serves, keeps leases when it is killed, follows its list of clients, and leaves nothing behind.
func TestRootGateway(t *testing.T) {
	r := newGatewayRig(t)
	r.write(t, "node-1")
	cmd := r.start(t)
	c := r.client(t, "node-1")
	ask := provision.Allocate{PublicKey: base64.StdEncoding.EncodeToString(append([]byte{9}, make([]byte, 31)...))}
	var granted *provision.Granted
	waitFor(t, "a lease", func() (err error) {
		granted, err = c.Allocate(t.Context(), ask)
		return err
	})
	if r.setting(t, "ipv4/ip_forward") != "1" {
		t.Error("nothing is forwarded")
	}
	end(t, cmd, unix.SIGKILL)
	cmd = r.start(t)
	waitFor(t, "the same lease after a kill", func() error {
		again, err := c.Allocate(t.Context(), ask)
		if err == nil && again.Lease.ID != granted.Lease.ID {
			t.Fatalf("another lease: %+v", again)
		}
		return err
	})
	waitFor(t, "its figures, on the socket that the killed one left", func() error {
		text, err := r.figures()
		if err == nil && !strings.Contains(text, "\nforefend_gateway_leases 1\n") {
			err = errors.New(text)
		}
		return err
	})
	second := r.start(t) // of the same state
	if err := second.Wait(); err == nil {
		t.Error("two gateways have one state")
	}
	if _, err := c.Renew(t.Context(), []string{granted.Lease.ID}); err != nil {
		t.Error(err)
	}
	r.write(t, "node-2")
	other := r.client(t, "node-2")
	waitFor(t, "the other client", func() error {
		_, err := other.Stats(t.Context())
		return err
	})
	if _, err := c.Renew(t.Context(), []string{granted.Lease.ID}); err == nil {
		t.Error("a client that is not in the list any more is served")
	}
	end(t, cmd, syscall.SIGTERM)
	if left := r.left(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// figures are what Prometheus is shown.
func (r *gatewayRig) figures() (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "state", "metrics.sock"))
	}}}
	got, err := client.Get("http://forefend/metrics")
	if err != nil {
		return "", err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	return string(text), err
}

func waitFor(t *testing.T, what string, do func() error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still not: %s: %v", what, err)
		}
	}
}
