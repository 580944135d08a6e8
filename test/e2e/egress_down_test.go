package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/test/e2e/harness"
)

// persistent makes requests without a pause, by a connection that it keeps until one has no answer for so long as it waits.
type persistent struct {
	answered, lost atomic.Int64
	moved          atomic.Int64 // when it had the first answer by who is asked for, in nanoseconds of Unix
}

// patience is how long a client waits for an answer. It is the least that dead_after may be: by the time that a gateway is found dead the
// client has a new connection, which would wait as long again.
const patience = 6 * time.Second

func (p *persistent) ask(ns *enter.Namespace, until string, stop <-chan struct{}) {
	var do func() (string, error)
	var c net.Conn
	for {
		select {
		case <-stop:
			if c != nil {
				_ = c.Close()
			}
			return
		default:
		}
		if c == nil {
			if err := ns.Do(func() (err error) {
				c, err = net.DialTimeout("tcp", "198.51.100.1:"+harness.WebPort, patience)
				return err
			}); err != nil {
				c = nil
				p.lost.Add(1)
				continue
			}
			do = web1(impatient{c})
		}
		who, err := do()
		if err != nil {
			p.lost.Add(1)
			_ = c.Close()
			c = nil
			continue
		}
		p.answered.Add(1)
		if who == until {
			p.moved.CompareAndSwap(0, time.Now().UnixNano())
		}
	}
}

// impatient waits for patience, whatever it is told.
type impatient struct{ net.Conn }

func (i impatient) SetDeadline(time.Time) error { return i.Conn.SetDeadline(time.Now().Add(patience)) }

// foundDown is when tunneld had a tunnel's agents told that it is down, by its log; the zero time: it had not.
func (h *host) foundDown(t testing.TB, tunnel string) time.Time {
	t.Helper()
	text, err := os.ReadFile(h.TunnelsLog())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var entry struct {
			Time    time.Time
			Msg     string
			Tunnels []string
		}
		if json.Unmarshal([]byte(line), &entry) == nil && strings.Contains(entry.Msg, "agents are told of tunnels that are down") && slices.Contains(entry.Tunnels, tunnel) {
			return entry.Time
		}
	}
	return time.Time{}
}

// TestEgressDown: a gateway dies under a container without a word, as one that is killed does. As soon as it is found dead, all that waits for a
// connection by it goes by the other one, and so do kept-alive connections with their next request. With both dead there is no answer, and
// nothing leaves by a weaker way.
func TestEgressDown(t *testing.T) {
	rules := t.TempDir()
	if err := os.WriteFile(rules+"/all.toml", []byte("[[rule]]\nname = \"all\"\nwhen = 'true'\ntunnel = { encryption = \"standard\" }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	left, right := newGateway(t, "left", "standard"), newGateway(t, "right", "standard")
	const deadline = patience / 3
	config := "log_format = \"json\"\n[egress]\nrules = %q\ndecide_within = \"5s\"\n"
	for _, g := range []*gateway{left, right} {
		config += strings.Replace(g.Config, "[[tunnel.slot]]", fmt.Sprintf("dead_after = %q\n[[tunnel.slot]]", patience), 1)
	}
	h := newHost(t, harness.WithConfig(fmt.Sprintf(config, rules)+directUplink))
	o := newOutside(t)
	direct := web(t, o.World, "direct")
	id, err := h.linked(t, o, sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	ns := h.networkOf(t, id)

	kept := web1(dialIn(t, ns, "198.51.100.1:"+harness.WebPort))
	if who, err := kept(); who != "left" || err != nil {
		t.Fatalf("an answer by %q, %v", who, err)
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	var all []*persistent
	for range 16 {
		p := new(persistent)
		all = append(all, p)
		asking.Go(func() { p.ask(ns, "right", stop) })
	}
	end := sync.OnceFunc(func() { close(stop); asking.Wait() })
	t.Cleanup(end)
	eventually(t, "answers on all connections", func() bool {
		return !slices.ContainsFunc(all, func(p *persistent) bool { return p.answered.Load() < 20 })
	})
	killed := time.Now()
	left.CloseDevice()
	eventually(t, "the gateway found dead", func() bool { return !h.foundDown(t, "left").IsZero() })
	found := h.foundDown(t, "left")
	eventually(t, "answers by the other gateway on all connections", func() bool {
		return !slices.ContainsFunc(all, func(p *persistent) bool { return p.moved.Load() == 0 })
	})
	begun := time.Now()
	if who, err := kept(); who != "right" || err != nil {
		t.Errorf("a connection that was kept has an answer by %q, %v", who, err)
	}
	next := time.Since(begun)
	var answered, lost int64
	var last time.Duration
	for _, p := range all {
		last = max(last, time.Unix(0, p.moved.Load()).Sub(found))
		answered, lost = answered+p.answered.Load(), lost+p.lost.Load()
	}
	t.Logf("found dead %s after it was; the last of %d connections had its first answer by the other tunnel %s after that, the next request on a kept one took %s; %d requests answered, %d without an answer in %s",
		found.Sub(killed), len(all), last, next, answered, lost, patience)
	if last > deadline {
		t.Errorf("the last of %d connections had its first answer by the other tunnel %s after the finding, not within %s", len(all), last, deadline)
	}

	right.CloseDevice()
	eventually(t, "the other gateway found dead", func() bool { return !h.foundDown(t, "right").IsZero() })
	end()
	if got := h.fetch(id, "198.51.100.1"); !strings.Contains(got, "50") {
		t.Errorf("without a gateway a request has %q", got)
	}
	if n := direct.Load(); n != 0 {
		t.Errorf("%d requests went directly", n)
	}
}
