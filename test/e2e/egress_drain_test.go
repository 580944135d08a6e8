package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// restless makes requests over one connection without a pause.
type restless struct {
	name     string
	answers  atomic.Int64
	last     atomic.Pointer[string] // who answered
	since    atomic.Int64           // how many answers in a row are that one's
	left     atomic.Int64           // when the last answer of another one came, in nanoseconds of Unix
	failures chan error
}

// ask makes requests that must not be sent twice until stop, by do, which tells who answered.
func (r *restless) ask(stop <-chan struct{}, do func() (who string, err error)) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		who, err := do()
		if err != nil {
			r.failures <- fmt.Errorf("%s, after %d requests: %w", r.name, r.answers.Load(), err)
			return
		}
		r.answers.Add(1)
		if old := r.last.Load(); old == nil || *old != who {
			r.left.Store(time.Now().UnixNano())
			r.last.Store(&who)
			r.since.Store(0)
		}
		r.since.Add(1)
	}
}

// web1 makes requests over one connection of HTTP/1.1.
func web1(c net.Conn) func() (string, error) {
	read := bufio.NewReader(c)
	return func() (string, error) {
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return "", err
		}
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: world\r\nContent-Length: 5\r\n\r\nhello"); err != nil {
			return "", err
		}
		resp, err := http.ReadResponse(read, nil)
		if err != nil {
			return "", err
		}
		return answered(resp)
	}
}

// web2 makes requests by a client of HTTP/2, which tells how many connections that takes.
func web2(t testing.TB, ns *enter.Namespace) (do func() (string, error), dials *int) {
	dials = new(int)
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(_ context.Context, _, to string) (c net.Conn, err error) {
		*dials++
		err = ns.Do(func() error {
			c, err = net.DialTimeout("tcp", to, 10*time.Second)
			return err
		})
		return c, err
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr, Timeout: time.Minute}
	return func() (string, error) {
		resp, err := c.Post("http://198.51.100.1:"+harness.WebPort+"/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			return "", err
		}
		return answered(resp)
	}, dials
}

func answered(resp *http.Response) (who string, err error) {
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 200 {
		err = errors.Join(fmt.Errorf("%s: %q", resp.Status, body), err)
	}
	return strings.TrimSpace(string(body)), err
}

// TestEgressDrain: a tunnel is drained under a container that makes requests over kept-alive connections without a pause. Once the command has
// returned each next request takes the other tunnel, none is lost or sent twice; what is no row of requests ends where it is, and then the
// device goes. Tunnels that are drained and back again and again lose nothing either. Another tunneld drains what the one before did.
func TestEgressDrain(t *testing.T) {
	rules := t.TempDir()
	if err := os.WriteFile(rules+"/all.toml", []byte("[[rule]]\nname = \"all\"\nwhen = 'true'\ntunnel = { encryption = \"standard\" }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	left, right := newGateway(t, "left", "standard"), newGateway(t, "right", "standard")
	h := newHost(t, harness.WithConfig(fmt.Sprintf("[egress]\nrules = %q\ndecide_within = \"5s\"\n", rules)+left.Config+right.Config))
	for _, g := range []*gateway{left, right} {
		if err := g.Echo(worldPort); err != nil {
			t.Fatal(err)
		}
	}
	id, err := h.linked(t, newOutside(t), sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	ns := h.networkOf(t, id)

	stop, failures := make(chan struct{}), make(chan error, 100)
	var asking sync.WaitGroup
	var all []*restless
	restlessly := func(name string, do func() (string, error)) {
		r := &restless{name: name, failures: failures}
		all = append(all, r)
		asking.Go(func() { r.ask(stop, do) })
	}
	for _, name := range []string{"one of HTTP/1.1", "another one of HTTP/1.1"} {
		restlessly(name, web1(dialIn(t, ns, "198.51.100.1:"+harness.WebPort)))
	}
	streams, dials := web2(t, ns)
	restlessly("one of HTTP/2", streams)
	ended := sync.OnceFunc(func() { close(stop); asking.Wait() })
	t.Cleanup(ended)
	// wholly tells whether the last requests of all were answered by one side, and when the last one had been by the other.
	wholly := func(side string) bool {
		select {
		case err := <-failures:
			t.Fatalf("a request failed: %v", err)
		default:
		}
		return !slices.ContainsFunc(all, func(r *restless) bool {
			last := r.last.Load()
			return last == nil || *last != side || r.since.Load() < 20
		})
	}
	var commands []time.Duration
	drain := func(side string, on bool) {
		t.Helper()
		begun := time.Now()
		defer func() { commands = append(commands, time.Since(begun)) }()
		words := []string{"tunnel", "drain", side}
		if !on {
			words = append(words, "--undo")
		}
		if err := h.Forefend(words...).Check(); err != nil {
			t.Fatal(err)
		}
	}
	asked := map[string]*atomic.Int64{"left": left.asked, "right": right.asked}
	// moves drains a side, and tells how long there were requests by it.
	moves := func(from, to string) time.Duration {
		t.Helper()
		begun := time.Now()
		drain(from, true)
		before := asked[from].Load()
		defer func() { // of each connection one may have been under way
			if n := asked[from].Load() - before; n > int64(len(all)) {
				t.Errorf("%d requests went by %s after it had been drained", n, from)
			}
		}()
		eventually(t, "all requests by "+to, func() bool { return wholly(to) })
		var last time.Duration
		for _, r := range all {
			last = max(last, time.Unix(0, r.left.Load()).Sub(begun))
		}
		return last
	}
	uses := func(side string) []api.TunnelUse {
		t.Helper()
		list := h.tunnels(t).Tunnels
		return list[slices.IndexFunc(list, func(one api.Tunnel) bool { return one.Name == side })].Uses
	}

	eventually(t, "all requests by left", func() bool { return wholly("left") })
	held := dialIn(t, ns, "198.51.100.1:"+worldPort)
	_ = held.SetDeadline(time.Time{})
	echoes := func() {
		t.Helper()
		b := []byte("x")
		if _, err := held.Write(b); err != nil {
			t.Fatalf("a connection that is no row of requests: %v", err)
		}
		if _, err := io.ReadFull(held, b); err != nil {
			t.Fatalf("a connection that is no row of requests: %v", err)
		}
	}
	echoes()
	begun := time.Now()
	took := moves("left", "right")
	t.Logf("the last of %d connections had its first answer by the other tunnel after %s", len(all), took)
	if r := h.Forefend("tunnel", "show", "left"); !strings.Contains(r.Stdout, "drained") {
		t.Errorf("tunnel show: %+v", r)
	}
	for time.Since(begun) < 25*time.Second { // it would be gone by then
		echoes()
		wholly("right")
		time.Sleep(100 * time.Millisecond)
	}
	if got := uses("left"); len(got) != 1 || got[0].Connections != 1 {
		t.Errorf("under a connection the drained tunnel has %+v", got)
	}
	before := left.asked.Load()
	_ = held.Close()
	eventually(t, "no device of the drained tunnel", func() bool {
		return len(uses("left")) == 0 && len(h.tunnelDevices(t, ns)) == 1
	})
	if n := left.asked.Load() - before; n != 0 {
		t.Errorf("%d requests went by the drained tunnel after all had left it", n)
	}

	// It is back, and nobody returns for that.
	drain("left", false)
	for range 20 {
		drain("left", true)
		drain("left", false)
	}
	t.Logf("to and fro: %s, %s, %s", moves("right", "left"), func() time.Duration { drain("right", false); return moves("left", "right") }(),
		func() time.Duration { drain("left", false); return moves("right", "left") }())
	ended()
	slices.Sort(commands)
	t.Logf("%d commands, until all agents knew: median %s, the longest %s", len(commands), commands[len(commands)/2], commands[len(commands)-1])

	// Another tunneld drains it, too.
	if err := h.Forefend("tunneld", "--stop").Check(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another tunneld that drains right", func() bool {
		r := h.Forefend("tunnel", "ls")
		return r.Check() == nil && strings.Contains(r.Stdout, ", drained")
	})
	var extra int64
	drain("left", true) // there is none left, of which agents know
	if resp, err := web1(dialIn(t, ns, "198.51.100.1:"+harness.WebPort))(); err == nil {
		t.Errorf("with all tunnels drained there was an answer by %s", resp)
	}
	drain("left", false)
	if who, err := web1(dialIn(t, ns, "198.51.100.1:"+harness.WebPort))(); who != "left" || err != nil {
		t.Errorf("with the other one drained there was an answer by %s, %v", who, err)
	} else {
		extra = 1
	}

	answers := extra
	for _, r := range all {
		answers += r.answers.Load()
	}
	if *dials != 1 {
		t.Errorf("the client of HTTP/2 connected %d times", *dials)
	}
	select {
	case err := <-failures:
		t.Errorf("a request failed: %v", err)
	default:
	}
	if n := left.asked.Load() + right.asked.Load(); n != answers {
		t.Errorf("%d requests reached servers, %d were answered", n, answers)
	}
	t.Logf("%d requests, none failed", answers)
}

// tunnelDevices are the devices of tunnels in a network namespace.
func (h *host) tunnelDevices(t testing.TB, ns *enter.Namespace) (names []string) {
	t.Helper()
	if err := ns.Do(func() error {
		all, err := net.Interfaces()
		for _, d := range all {
			if d.Name != "lo" && d.Name != "eth0" {
				names = append(names, d.Name)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}
