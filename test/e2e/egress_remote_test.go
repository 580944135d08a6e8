package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/certificates"
	"forefend.dev/forefend/test/e2e/harness"
)

// centralDaemon is a forefend daemon that decides for other nodes.
type centralDaemon struct {
	t               testing.TB
	h               *host
	dir             string
	source          string // of its rules: a directory, or "store"
	address         string
	ours, strangers *certificates.Authority
	daemon          *exec.Cmd
}

// newCentral prepares one; start starts it.
func newCentral(t testing.TB) *centralDaemon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &centralDaemon{t: t, dir: t.TempDir(), address: l.Addr().String(), ours: certificates.New(t), strangers: certificates.New(t)}
	_ = l.Close() // the daemon takes the port
	c.source = filepath.Join(c.dir, "rules")
	if err := os.Mkdir(c.source, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

// node is what a node's config.toml says of it.
func (c *centralDaemon) node(name string) string {
	cert, key := c.ours.Issue(c.t, name)
	return fmt.Sprintf("[egress]\npdp = \"remote\"\npdp_grace = \"5s\"\ndecide_within = \"2s\"\n"+
		"[egress.remote]\naddress = %q\nname = \"pdp.test\"\nca = %q\ncert = %q\nkey = %q\n", c.address, c.ours.File, cert, key)
}

func (c *centralDaemon) rules(text string) {
	c.t.Helper()
	temporary := filepath.Join(c.dir, "rules", ".new")
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(c.dir, "rules", "site.toml")); err != nil {
		c.t.Fatal(err)
	}
}

func (c *centralDaemon) config() string { return filepath.Join(c.dir, "config.toml") }

// start has it serve, with a certificate of an authority.
func (c *centralDaemon) start(by *certificates.Authority) {
	c.t.Helper()
	cert, key := by.Issue(c.t, "pdp.test")
	text := fmt.Sprintf("root = %q\nstate = %q\n[egress]\nrules = %q\n[egress.serve]\nlisten = %q\nca = %q\ncert = %q\nkey = %q\nnames = [\"node-*.test\"]\n",
		filepath.Join(c.dir, "root"), filepath.Join(c.dir, "run"), c.source, c.address, c.ours.File, cert, key)
	if err := os.WriteFile(c.config(), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.daemon = c.h.ForefendCommand(c.t.Context(), "daemon")
	// A service manager's variable: the daemon makes no cgroup of its own, which nobody would remove.
	c.daemon.Env = append(c.daemon.Env, "FOREFEND_CONFIG="+c.config(), "NOTIFY_SOCKET="+filepath.Join(c.dir, "none"))
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	c.daemon.Stdout, c.daemon.Stderr = log, log
	if err := c.daemon.Start(); err != nil {
		c.t.Fatal(err)
	}
}

// kill ends it at once.
func (c *centralDaemon) kill() {
	if c.daemon == nil {
		return
	}
	_ = c.daemon.Process.Kill()
	_ = c.daemon.Wait()
	c.daemon = nil
	if c.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(c.dir, "log"))
		c.t.Logf("the central daemon's log:\n%s", log)
	}
}

func (c *centralDaemon) audit() (r api.AuditResponse) {
	c.t.Helper()
	shown := c.h.Forefend("--config", c.config(), "policy", "audit", "--json")
	if err := shown.Check(); err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(shown.Stdout), &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

const publicReads = `
[[rule]]
name = "public reads"
when = 'operation == "read" && data == "public"'
tunnel = { encryption = "none" }
`

// TestEgressRemote: a node's requests are decided by a daemon elsewhere, as its rules are now; without it, by what is known for the grace,
// and then not at all.
func TestEgressRemote(t *testing.T) {
	central := newCentral(t)
	central.rules(publicReads)
	h := newHost(t, harness.WithConfig(central.node("node-1.test")+directUplink))
	central.h = h
	o := newOutside(t)
	reached := web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	const public, internal, secret = "x-forefend-data: public", "x-forefend-data: internal", "x-forefend-data: secret"
	fetch := func(header string) string { return h.fetch(id, "198.51.100.1", header) }
	passes := func(header string) bool { return fetch(header) == "direct" }
	refused := func(header string) bool {
		return strings.Contains(fetch(header), "50") || strings.Contains(fetch(header), "403")
	}

	if got := fetch(public); !strings.Contains(got, "503") {
		t.Errorf("before there is a central daemon: %q", got)
	}
	central.start(central.strangers) // one that the node must not believe
	time.Sleep(time.Second)          // nothing can be waited for: that nothing happens is the point
	if got := fetch(public); !strings.Contains(got, "503") {
		t.Errorf("a central daemon of another authority decided: %q", got)
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the world was reached %d times", n)
	}
	central.kill()
	central.start(central.ours)
	eventually(t, "a request decided elsewhere", func() bool { return passes(public) })
	if got := fetch(internal); !strings.Contains(got, "403") {
		t.Errorf("what no rule allows: %q", got)
	}

	// A rule that is edited there holds here.
	central.rules(strings.ReplaceAll(publicReads, "public", "internal"))
	edited := time.Now()
	eventually(t, "the new rules", func() bool { return strings.Contains(fetch(public), "403") })
	t.Logf("new rules were in force here after %s, the request included", time.Since(edited))
	if !within(30*time.Second, func() bool { return passes(internal) }) { // a busy machine may need more than one try
		t.Error("what the new rules allow is refused")
	}

	// One that hangs: what is not known is refused within decide_within.
	if err := central.daemon.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := fetch(secret)
	t.Logf("with a central daemon that hangs a request had %q after %s", got, time.Since(began))
	if !strings.Contains(got, "503") {
		t.Errorf("a central daemon that hangs: %q", got)
	}
	if err := central.daemon.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an answer of one that goes on", func() bool { return strings.Contains(fetch(secret), "403") && passes(internal) })

	// One that is gone: what is known holds for the grace, what is not is refused; then nothing leaves.
	gone := time.Now() // from before, as the grace may begin before the kill returns
	central.kill()
	if !passes(internal) && time.Since(gone) < 4*time.Second {
		t.Error("what was known is refused within the grace")
	}
	if !refused("x-forefend-data: other") {
		t.Error("what was not known was let through")
	}
	eventually(t, "the end of the grace", func() bool { return strings.Contains(fetch(internal), "503") })
	if after := time.Since(gone); after < 4*time.Second {
		t.Errorf("nothing was let through any more after %s, within the grace", after)
	}
	before := reached.Load()
	if passes(internal) || reached.Load() != before {
		t.Error("after the grace a request was let through")
	}

	central.start(central.ours)
	eventually(t, "the central daemon back", func() bool { return passes(internal) })
	list := central.audit()
	if len(list.Classes) == 0 || list.Classes[0].Node != "node-1.test" || list.Classes[0].Count == 0 || list.Classes[0].Workload == "" {
		t.Errorf("its book: %+v", list)
	}
	r := h.Forefend("events", "--json", "--since", "0")
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.Stdout, "is away, known decisions hold") || !strings.Contains(r.Stdout, "denied") || !strings.Contains(r.Stdout, "are decided by "+central.address) {
		t.Errorf("the node's events: %.2000s", r.Stdout)
	}
}
