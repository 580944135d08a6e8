package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/network"
)

// provider is a machine with a `forefend gateway`, set up as docs/gateway.md says, in front of a world. Nodes reach it by ports of loopback.
type provider struct {
	t        *testing.T
	page     string
	dir      string // /etc/forefend/gateway of both machines
	at       *enter.Namespace
	door     netip.AddrPort // where nodes ask
	behind   *outside
	settings string // gateway.toml but for its endpoint
	gateway  *exec.Cmd
	gone     <-chan struct{}
}

// newProvider prepares one; start starts it.
func newProvider(t *testing.T) *provider {
	t.Helper()
	page, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, page: string(page), dir: t.TempDir(), behind: newOutside(t)}
	if p.at, err = network.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.at.Close() })
	if err := network.Join(network.End{In: p.at, Name: "eth0", Addresses: []string{"10.99.0.2/24", "fd99::2/64"}, Gateways: []string{"10.99.0.1", "fd99::1"}},
		network.End{In: p.behind.Namespace(), Name: "world0", Addresses: []string{"10.99.0.1/24", "fd99::1/64"}}); err != nil {
		t.Fatal(err)
	}
	door, stop, err := network.Relay(p.at, "127.0.0.1:7443")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	p.door = door

	// The commands of the page, by bash in an empty directory. The gateway's name is one that this machine can resolve.
	shell := exec.Command("bash", "-euc", p.here(p.block("openssl req -x509")))
	shell.Dir = p.dir
	if out, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("the commands of docs/gateway.md: %v\n%s", err, out)
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key)                                                                                                              // it never fails
	if err := os.WriteFile(filepath.Join(p.dir, "wireguard.key"), []byte(base64.StdEncoding.EncodeToString(key)), 0o600); err != nil { // wg genkey
		t.Fatal(err)
	}
	p.settings = p.here(p.block("# /etc/forefend/gateway.toml"))
	t.Cleanup(p.end)
	return p
}

// block is what the page shows in code, from a line that begins so to its end, without its indentation.
func (p *provider) block(begin string) string {
	p.t.Helper()
	m := regexp.MustCompile("(?m)^( *)" + regexp.QuoteMeta(begin)).FindStringSubmatchIndex(p.page)
	if m == nil {
		p.t.Fatalf("docs/gateway.md shows no %q", begin)
	}
	indent := p.page[m[2]:m[3]]
	var block strings.Builder
	for line := range strings.Lines(p.page[m[0]:]) {
		if strings.HasPrefix(line, "```") || indent != "" && line != "\n" && !strings.HasPrefix(line, indent) {
			break
		}
		block.WriteString(strings.TrimPrefix(line, indent))
	}
	return block.String()
}

// here is a text of the page with this machine's name, directories and ports.
func (p *provider) here(text string) string {
	return strings.NewReplacer(
		"https://gw.example.com:7443", fmt.Sprintf("https://localhost:%d", p.door.Port()),
		"gw.example.com:51820", "ENDPOINT", "gw.example.com", "localhost",
		"/etc/forefend/gateway", p.dir, "/var/lib/forefend-gateway", filepath.Join(p.dir, "state"),
		`":7443"`, `"127.0.0.1:7443"`, `"10m"`, `"10s"`, // a node renews after a third of it
	).Replace(text)
}

// start starts the gateway, which nodes reach at an endpoint.
func (p *provider) start(h *host, endpoint netip.AddrPort) {
	p.t.Helper()
	file := filepath.Join(p.dir, "gateway.toml")
	write(p.t, file, strings.ReplaceAll(p.settings, "ENDPOINT", endpoint.String()))
	p.gateway = exec.Command(filepath.Join(h.BinDir, "forefend"), "--config", file, "gateway")
	p.gateway.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	p.gateway.Stderr = p.t.Output()
	var err error
	if p.gone, err = child.Begin(p.at, p.gateway); err != nil {
		p.t.Fatal(err)
	}
}

// end ends the gateway in order, if it runs.
func (p *provider) end() {
	if p.gateway == nil {
		return
	}
	if err := p.gateway.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Error(err)
	}
	<-p.gone
	if status := p.gateway.ProcessState; !status.Success() {
		p.t.Errorf("the gateway ended with %s", status)
	}
	p.gateway = nil
}

// endpoint is another UDP port that leads to the gateway, until stop.
func (p *provider) endpoint() (at netip.AddrPort, stop func()) {
	p.t.Helper()
	at, stop, err := network.RelayUDP(p.at, "127.0.0.1:51820")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(stop)
	return at, stop
}

// leases asks the gateway by the page's curl command.
func (p *provider) leases() []provision.LeaseStat {
	p.t.Helper()
	_, command, _ := strings.Cut(p.page, "`curl ")
	command, _, _ = strings.Cut(command, "`")
	shell := exec.Command("bash", "-c", "curl -sS "+p.here(command))
	shell.Dir, shell.Stderr = p.dir, p.t.Output()
	out, err := shell.Output()
	var stats provision.Stats
	if err == nil {
		err = json.Unmarshal(out, &stats)
	}
	if err != nil {
		p.t.Fatalf("curl %s: %v %s", command, err, out)
	}
	return stats.Leases
}

// TestEgressGateway: two machines set up as docs/gateway.md says, with its commands and files; a container's tunnel is allocated from a
// gateway in a namespace of its own, and a connection through it lives on when tunneld is killed, and when the gateway has another address.
func TestEgressGateway(t *testing.T) {
	p := newProvider(t)
	tunnelled := web(t, p.behind.World, "eu-1")
	rules := t.TempDir()
	write(t, filepath.Join(rules, "all.toml"), "[[rule]]\nname = \"all\"\nwhen = \"true\"\ntunnel = { encryption = \"strong\" }\n")
	h := newHost(t, harness.WithConfig(fmt.Sprintf("[egress]\nrules = %q\ndecide_within = \"2s\"\n", rules)+p.here(p.block("# config.toml\n"))))
	o := newOutside(t)
	direct := web(t, o.World, "direct")
	first, leave := p.endpoint()
	p.start(h, first)
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request by a tunnel that was allocated", func() bool { return h.fetch(id, "198.51.100.1") == "eu-1" })
	if leases := p.leases(); len(leases) == 0 {
		t.Error("the gateway has no leases of this node")
	}
	says := talk(t, dialIn(t, h.networkOf(t, id), "198.51.100.1:"+worldPort))
	says("before")

	if err := unix.Kill(h.tunneldOf(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	says("by another tunneld")

	p.end()
	leave()
	second, _ := p.endpoint()
	p.start(h, second)
	says("after") // once the node knows the address, TCP sends it again
	if got := h.fetch(id, "198.51.100.1"); got != "eu-1" {
		t.Errorf("a request after the gateway had moved: %q", got)
	}
	if direct.Load() != 0 || tunnelled.Load() == 0 {
		t.Errorf("%d requests directly, %d by the tunnel", direct.Load(), tunnelled.Load())
	}
	h.remove(id)
}
