package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/receipt"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/liar"
)

// lying puts a door before the gateway's that can lie, with the certificates of both sides.
func (p *provider) lying() *liar.Door {
	p.t.Helper()
	file := func(name string) string { return filepath.Join(p.dir, name) }
	by := liar.Stolen{Authority: x509.NewCertPool()}
	authority, err := os.ReadFile(file("ca.pem"))
	if err != nil || !by.Authority.AppendCertsFromPEM(authority) {
		p.t.Fatalf("the authority's certificate: %v", err)
	}
	var failed, broken error
	by.Gateway, err = tls.LoadX509KeyPair(file("cert.pem"), file("key.pem"))
	by.Node, failed = tls.LoadX509KeyPair(file("node.pem"), file("node.key"))
	on, broken := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, failed, broken); err != nil {
		p.t.Fatal(err)
	}
	to := fmt.Sprintf("https://localhost:%d", p.door.Port())
	p.door = on.Addr().(*net.TCPAddr).AddrPort()
	return liar.New(p.t, on, to, by)
}

// talk returns what has a line echoed on a connection.
func talk(t *testing.T, c net.Conn) (says func(line string)) {
	echoed := bufio.NewReader(c)
	return func(line string) {
		t.Helper()
		_, err := io.WriteString(c, line+"\n")
		got, failed := echoed.ReadString('\n')
		if err := errors.Join(err, failed); err != nil || got != line+"\n" {
			t.Fatalf("%d bytes of %d came back through the tunnel: %v", len(got), len(line)+1, err)
		}
	}
}

// TestReceipts: a container's connections and queries for names, over IPv4 and IPv6, agree with the receipts of a real gateway. Once that counts
// more than the agent has sent, events say so, the connections are ended, the container's risk is higher, and forefend flows --verify fails.
func TestReceipts(t *testing.T) {
	p := newProvider(t)
	door := p.lying()
	web(t, p.behind.World, "eu-1")
	p.behind.names(t, "--host-record=www.example,198.51.100.1")
	rules := t.TempDir()
	write(t, filepath.Join(rules, "all.toml"), "[[rule]]\nname = \"all\"\nwhen = \"true\"\ntunnel = { encryption = \"strong\" }\n")
	h := newHost(t, harness.WithConfig(fmt.Sprintf("mode = \"observe\"\n[scan]\nenabled = false\n[egress]\nrules = %q\ndecide_within = \"2s\"\nverify = \"1s\"\n", rules)+
		p.here(p.block("# config.toml\n"))))
	at, _ := p.endpoint()
	p.start(h, at)
	id, err := h.linked(t, newOutside(t), sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request by a tunnel that was allocated", func() bool { return h.fetch(id, "198.51.100.1") == "eu-1" })
	if got := h.fetch(id, "2001:db8::1"); got != "eu-1" {
		t.Fatalf("over IPv6: %q", got)
	}
	servers := []string{"2001:db8::1", "198.51.100.1"}
	conns := make(map[string]net.Conn)
	says := make(map[string]func(string))
	for _, server := range servers {
		if r := h.exec(id, "sh", "-c", "echo nameserver "+server+" > /etc/resolv.conf"); r.Check() != nil {
			t.Fatal(r)
		}
		if got := h.fetch(id, "www.example"); got != "eu-1" {
			t.Fatalf("by a name of %s: %q", server, got)
		}
		conns[server] = dialIn(t, h.networkOf(t, id), net.JoinHostPort(server, worldPort))
		says[server] = talk(t, conns[server])
		says[server](strings.Repeat("a", 32<<10))
	}
	before := h.risk(t, id)
	eventually(t, "receipts of all connections", func() bool {
		var all api.Reconciled
		h.ask(t, &all, "flows", id, "--verify") // which fails where one is wrong
		for _, server := range servers {
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				if !slices.ContainsFunc(all.Verdicts, func(v flow.Verdict) bool {
					return v.Protocol == protocol && v.Remote.Addr().String() == server && v.Account.Sent > 0 && v.Account.Received > 0 && (protocol == unix.IPPROTO_UDP || v.Account.Sent > 32<<10)
				}) {
					return false
				}
			}
		}
		return len(all.Verdicts) >= 8 && !slices.ContainsFunc(all.Verdicts, func(v flow.Verdict) bool { return v.Standing != flow.Agrees })
	})
	if wrong := h.said(t, id, "receipt"); len(wrong) > 0 {
		t.Fatalf("of an honest gateway: %v", wrong)
	}

	told := func(parts ...string) bool {
		return slices.ContainsFunc(h.said(t, id, "receipt"), func(said string) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(said, part) })
		})
	}
	door.Tells(liar.Falsified(t, filepath.Join(p.dir, "state"), func(r *receipt.Receipt) {
		if r.Protocol == unix.IPPROTO_UDP {
			r.Up.Bytes += 1 << 20
		}
	}))
	eventually(t, "an event about datagrams", func() bool {
		h.fetch(id, "www.example")
		return told("datagrams to 198.51.100.1:53 by tunnel eu-1: the gateway counts more datagrams")
	})
	door.Tells(liar.Falsified(t, filepath.Join(p.dir, "state"), func(r *receipt.Receipt) { r.Up.Bytes += 1 << 20 }))
	for _, server := range servers {
		says[server]("b")
	}
	for _, server := range servers {
		eventually(t, "an event about the gateway's count of "+server, func() bool {
			return told("the gateway counts more than was sent", netip.AddrPortFrom(netip.MustParseAddr(server), 4242).String())
		})
		if n, err := conns[server].Read(make([]byte, 1)); err == nil {
			t.Errorf("the connection to %s goes on: %d bytes", server, n)
		}
	}
	eventually(t, "a higher risk", func() bool { return h.risk(t, id) > before })
	if shown := h.Forefend("explain", id).Stdout; !strings.Contains(shown, "receipts contradict each other") {
		t.Errorf("explain says nothing of it:\n%s", shown)
	}
	if r := h.Forefend("flows", id, "--verify"); r.Code == 0 || !strings.Contains(r.Stdout, "differs") {
		t.Errorf("forefend flows --verify: %+v", r)
	}
}

// risk is a container's, of 100.
func (h *host) risk(t *testing.T, id string) float64 {
	t.Helper()
	var d struct{ Risk struct{ Score float64 } }
	h.ask(t, &d, "explain", id)
	return d.Risk.Score
}
