package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// directUplink is the configuration of the one tunnel that is none.
const directUplink = "[[tunnel]]\nname = \"uplink\"\nkind = \"direct\"\n"

// egressBy is the configuration of a node whose rules are in a directory, and that has that tunnel.
func egressBy(rules string) string {
	return fmt.Sprintf("[egress]\nrules = %q\ndecide_within = \"2s\"\n", rules) + directUplink
}

// linked starts a container whose network namespace has its link to the world before its first process, as CNI would have it.
func (h *host) linked(t *testing.T, o *outside, c container) (id string, err error) {
	t.Helper()
	c.id = h.newID("egress")
	t.Cleanup(func() { h.remove(c.id) })
	_, err = h.StartLinked(t.Context(), o.World, c.id, c.command(h)[1:]...)
	return c.id, err
}

// fetch has a container make a request and returns what it was answered.
func (h *host) fetch(id, host string, headers ...string) string {
	command := "timeout 10 wget -q -O - "
	for _, header := range headers {
		command += "--header '" + header + "' "
	}
	r := h.exec(id, "sh", "-c", command+"http://"+net.JoinHostPort(host, harness.WebPort)+"/ 2>&1")
	return strings.TrimSpace(r.Stdout)
}

// killAgent kills a container's agent, which another one replaces.
func (h *host) killAgent(t testing.TB, id string) {
	t.Helper()
	var shown api.Agent
	if r := h.Forefend("agent", id, "--json"); r.Check() != nil || json.Unmarshal([]byte(r.Stdout), &shown) != nil || shown.PID == 0 {
		t.Fatalf("the agent: %+v", r)
	}
	if err := unix.Kill(shown.PID, unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

func (h *host) tunnels(t testing.TB) api.TunnelsResponse {
	t.Helper()
	r := h.Forefend("tunnel", "ls", "--json")
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	var list api.TunnelsResponse
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestEgress runs containers on a node with tunnels.
func TestEgress(t *testing.T) {
	h := newHost(t, harness.WithConfig(directUplink))
	o := newOutside(t)
	reached := web(t, o.World, "direct")
	t.Run("closed", func(t *testing.T) {
		id, err := h.linked(t, o, sh("wget -q -O - http://198.51.100.1:"+harness.WebPort+"/; sleep 1000")) // its first instruction, so to speak
		if err != nil {
			t.Fatal(err)
		}
		// No rule, no decision: what the container asks for is refused by its interceptor, which says so.
		for _, host := range []string{"198.51.100.1", "2001:db8::1"} {
			if got := h.fetch(id, host); !strings.Contains(got, "50") && !strings.Contains(got, "403") {
				t.Errorf("a request without a decision: %q", got)
			}
		}
		if n := reached.Load(); n != 0 {
			t.Errorf("the world was reached %d times", n)
		}
		if list := h.tunnels(t); len(list.Guarded) != 1 || !strings.HasSuffix(list.Guarded[0].Container, "/"+id) {
			t.Errorf("guarded: %+v", list.Guarded)
		}
		// Without its agent nothing is answered, and nothing leaves; the next agent takes its place.
		h.killAgent(t, id)
		eventually(t, "another agent answers", func() bool {
			got := h.fetch(id, "198.51.100.1")
			return strings.Contains(got, "50") || strings.Contains(got, "403")
		})
		if n := reached.Load(); n != 0 {
			t.Errorf("without the agent the world was reached %d times", n)
		}
		h.remove(id)
		eventually(t, "the namespace released", func() bool { return len(h.tunnels(t).Guarded) == 0 })
	})
	t.Run("net_admin", func(t *testing.T) {
		_, err := h.linked(t, o, sh("sleep 1000", "--cap-add", "CAP_NET_ADMIN"))
		if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("a container that can undo the policy was started: %v", err)
		}
	})
}

// threeRoutes are the rules of TestEgressRoutes.
const threeRoutes = `
[[rule]]
name = "confidential"
when = 'data == "confidential"'
tunnel = { encryption = "strong" }
[[rule]]
name = "internal"
when = 'data == "internal"'
tunnel = { encryption = "standard" }
[[rule]]
name = "public reads"
when = 'operation == "read" && data == "public"'
tunnel = { encryption = "none" }
`

// TestEgressRoutes: one container, requests that differ only in a header, and each leaves by another way.
func TestEgressRoutes(t *testing.T) {
	rules := t.TempDir()
	if err := os.WriteFile(rules+"/routes.toml", []byte(threeRoutes), 0o600); err != nil {
		t.Fatal(err)
	}
	strong, standard := newGateway(t, "strong-1", "strong"), newGateway(t, "standard-1", "standard")
	h := newHost(t, harness.WithConfig(egressBy(rules)+strong.Config+standard.Config))
	o := newOutside(t)
	direct := web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"198.51.100.1", "2001:db8::1"} {
		for data, want := range map[string]string{"confidential": "strong-1", "internal": "standard-1", "public": "direct"} {
			if got := h.fetch(id, host, "x-forefend-data: "+data); got != want {
				t.Errorf("%s data to %s went by %q, not %s", data, host, got, want)
			}
		}
		if got := h.fetch(id, host, "x-forefend-data: secret"); !strings.Contains(got, "403") {
			t.Errorf("what no rule knows: %q", got)
		}
	}
	if a, b, c := strong.asked.Load(), standard.asked.Load(), direct.Load(); a != 2 || b != 2 || c != 2 {
		t.Errorf("requests by the gateways and directly: %d, %d, %d", a, b, c)
	}
	for _, tunnel := range h.tunnels(t).Tunnels {
		if tunnel.Kind == "wireguard" && (len(tunnel.Uses) != 1 || tunnel.Uses[0].Received == 0 || tunnel.Uses[0].Handshake.IsZero()) {
			t.Errorf("tunnel %s: %+v", tunnel.Name, tunnel.Uses)
		}
	}

	h.showsFlows(t, id)
	h.streams(t, id)

	// While a connection lives, flows tells by which rule and tunnel.
	held := `(printf "GET / HTTP/1.1\r\nHost: world\r\nX-Forefend-Data: internal\r\n\r\n"; sleep 30) | nc 198.51.100.1 ` + harness.WebPort
	if err := h.Ctr("task", "exec", "-d", "--exec-id", h.newID("x"), id, "sh", "-c", held).Check(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a flow that is verified", func() bool {
		r := h.Forefend("flows", id, "--json")
		var flows []struct {
			Rules    []string
			Tunnel   string
			Verified bool
		}
		return r.Check() == nil && json.Unmarshal([]byte(r.Stdout), &flows) == nil && len(flows) == 1 &&
			flows[0].Tunnel == "standard-1" && flows[0].Verified && len(flows[0].Rules) == 1 && flows[0].Rules[0] == "internal"
	})

	// A tunnel whose gateway is gone: its requests go nowhere, others' as before.
	strong.CloseDevice()
	if got := h.fetch(id, "198.51.100.1", "x-forefend-data: confidential"); got == "direct" || got == "standard-1" {
		t.Errorf("without its gateway a confidential request went by %s", got)
	}
	if got := h.fetch(id, "198.51.100.1", "x-forefend-data: internal"); got != "standard-1" {
		t.Errorf("another tunnel's request went by %q", got)
	}
	if n := direct.Load(); n != 2 {
		t.Errorf("the world was reached %d times directly, not 2", n)
	}
}

// streams has one connection of HTTP/2, from a container's network, make requests that leave by two tunnels, and one that does not.
func (h *host) streams(t *testing.T, id string) {
	t.Helper()
	ns, dials := h.networkOf(t, id), 0
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(_ context.Context, _, to string) (net.Conn, error) {
		dials++
		return dialIn(t, ns, to), nil
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	for range 2 {
		for data, want := range map[string]string{"confidential": "200 strong-1", "internal": "200 standard-1", "secret": "403 "} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://198.51.100.1:"+harness.WebPort+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Forefend-Data", data)
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if got := fmt.Sprintf("%d %s", resp.StatusCode, body); err != nil || !strings.HasPrefix(got, want) || resp.ProtoMajor != 2 {
				t.Errorf("a stream with %s data: %s %q, want %q, %v", data, resp.Proto, got, want, err)
			}
		}
	}
	if dials != 1 {
		t.Errorf("%d connections of HTTP/2, want 1", dials)
	}
}

// TestEgressLabel: a workload's label lowers what is demanded where its profile grants that, and there only.
func TestEgressLabel(t *testing.T) {
	rules := t.TempDir()
	if err := os.WriteFile(rules+"/routes.toml", []byte(threeRoutes), 0o600); err != nil {
		t.Fatal(err)
	}
	standard := newGateway(t, "standard-1", "standard")
	h := newHost(t, harness.WithConfig(fmt.Sprintf("[egress]\nrules = %q\ndefault_data = \"internal\"\ndecide_within = \"2s\"\n"+
		"[[profile]]\nname = \"trusted\"\nusers = [\"alice\"]\ngrants = [\"egress\"]\n[[tunnel]]\nname = \"uplink\"\nkind = \"direct\"\n", rules)+standard.Config))
	o := newOutside(t)
	web(t, o.World, "direct")
	for user, want := range map[string]string{"alice": "direct", "bob": "standard-1"} {
		id, err := h.linked(t, o, sh("sleep 1000", "--annotation", "forefend.dev/data=public", "--annotation", "forefend.dev/user="+user))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.fetch(id, "198.51.100.1"); got != want {
			t.Errorf("a request of %s's that says nothing went by %q, not %s", user, got, want)
		}
	}
}

// showsFlows: while a connection is open, forefend flows tells what it is for, by which rule it leaves, and by which tunnel.
func (h *host) showsFlows(t *testing.T, id string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.exec(id, "sh", "-c", `(printf 'GET /held HTTP/1.1\r\nHost: held.test\r\nx-forefend-data: Internal\r\n\r\n'; sleep 60) | nc 198.51.100.1 `+harness.WebPort)
	}()
	eventually(t, "the connection among the flows", func() bool {
		var flows []intercept.Flow
		r := h.Forefend("flows", id, "--json")
		if r.Check() != nil || json.Unmarshal([]byte(r.Stdout), &flows) != nil {
			return false
		}
		return slices.ContainsFunc(flows, func(f intercept.Flow) bool {
			return f.Context.Host == "held.test" && f.Context.Path == "/held" && f.Context.Data == "internal" && slices.Equal(f.Rules, []string{"internal"}) &&
				f.Tunnel == "standard-1" && f.Verified && f.Received > 0
		})
	})
	h.exec(id, "sh", "-c", "killall nc sleep") // not the container's own: that is process 1
	<-done
}

// TestEgressProcess: two programs of one container have different fates, and a flow says whose it is.
func TestEgressProcess(t *testing.T) {
	rules := t.TempDir()
	if err := os.WriteFile(rules+"/routes.toml", []byte(`
[[rule]]
name = "second"
when = 'process.executable == "/tmp/busybox-2"'
tunnel = { encryption = "none" }
[[rule]]
name = "others"
when = 'process.executable != "/tmp/busybox-2"'
deny = true
`), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, harness.WithConfig(egressBy(rules)))
	o := newOutside(t)
	web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("cp /bin/busybox /tmp/busybox-2; sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"198.51.100.1", "2001:db8::1"} {
		url := "http://" + net.JoinHostPort(host, harness.WebPort) + "/"
		if got := h.fetch(id, host); !strings.Contains(got, "403") {
			t.Errorf("/bin/busybox to %s: %q", host, got)
		}
		if r := h.exec(id, "sh", "-c", "timeout 10 /tmp/busybox-2 wget -q -O - "+url+" 2>&1"); strings.TrimSpace(r.Stdout) != "direct" {
			t.Errorf("/tmp/busybox-2 to %s: %+v", host, r)
		}
	}
	held := `(printf "GET / HTTP/1.1\r\nHost: world\r\n\r\n"; sleep 30) | /tmp/busybox-2 nc 198.51.100.1 ` + harness.WebPort
	if err := h.Ctr("task", "exec", "-d", "--exec-id", h.newID("x"), id, "sh", "-c", held).Check(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a flow of the program's", func() bool {
		var flows []intercept.Flow
		r := h.Forefend("flows", id, "--json")
		return r.Check() == nil && json.Unmarshal([]byte(r.Stdout), &flows) == nil && len(flows) == 1 &&
			flows[0].Context.Process != nil && flows[0].Context.Process.Executable == "/tmp/busybox-2" && flows[0].Context.Process.PID > 1
	})
}
