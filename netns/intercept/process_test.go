package intercept

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

// finder counts how often it is asked, and knows a process for as long as it has no error.
type finder struct {
	mu    sync.Mutex
	asked []netip.AddrPort
	err   error
}

func (f *finder) Process(_ context.Context, local, _ netip.AddrPort) (flow.Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, local)
	return flow.Process{Executable: "/usr/bin/curl", PID: 7}, f.err
}

// times are who was asked for until now.
func (f *finder) times() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

func (f *finder) fail(why string) {
	f.mu.Lock()
	f.err = errors.New(why)
	f.mu.Unlock()
}

// byProcess denies whoever is not curl, and depends on nothing else; other hosts are nobody's business.
func byProcess(c flow.Context) (flow.Decision, error) {
	d := endpoint("")
	if c.Host == "free.test" {
		return d, nil
	}
	if c.Process == nil || c.Process.Executable != "/usr/bin/curl" {
		d = deny("curl-only", "not curl")
	}
	d.Depends = []flow.Field{flow.FieldProcess}
	return d, nil
}

func TestProcess(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{})
	f := &finder{}
	r.Find(f)
	r.rules.set(byProcess)
	c := r.client()
	for range 3 { // looked up once for a connection, and not before a rule asks
		c.want("GET /a HTTP/1.1\r\nHost: free.test\r\n\r\n", "GET", 200, "s GET /a ")
	}
	if n := len(f.times()); n != 0 {
		t.Errorf("looked up %d times though no rule asked", n)
	}
	for range 3 {
		c.want("GET /a HTTP/1.1\r\nHost: x.test\r\n\r\n", "GET", 200, "s GET /a ")
	}
	if got, want := f.times(), c.LocalAddr().String(); len(got) != 1 || got[0].String() != want {
		t.Errorf("looked up for %v, want once for %s", got, want)
	}
	seen := r.rules.contexts()
	if last := seen[len(seen)-1]; last.Process == nil || last.Process.PID != 7 {
		t.Errorf("the process of the last request: %+v", last.Process)
	}

	f.fail("two programs have it")
	c = r.client()
	c.send("GET /a HTTP/1.1\r\nHost: x.test\r\n\r\n")
	resp, body := c.response("GET")
	if resp.StatusCode != 403 || !strings.Contains(body, "curl-only") || !strings.Contains(body, "not known: two programs have it") {
		t.Errorf("a process that is not found: %d %q", resp.StatusCode, body)
	}
}

// New rules may be the first that ask for the process of a connection that is relayed.
func TestProcessAskedLater(t *testing.T) {
	r := newRig(t, server(t, func(c *client) {
		c.send("hello\n")
		_, _ = c.r.ReadString('\n')
	}), Limits{FirstByte: time.Millisecond})
	f := &finder{}
	r.Find(f)
	c := r.client()
	if line, err := c.r.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("%q, %v", line, err)
	}
	r.rules.set(byProcess)
	r.Redecide()
	if flows := r.Flows(); len(flows) != 1 || flows[0].Context.Process == nil || !slices.Contains(f.times(), netip.MustParseAddrPort(c.LocalAddr().String())) {
		t.Errorf("after new rules: %+v, looked up for %v", flows, f.times())
	}
	f.fail("gone") // it is known of this connection, and stays so
	r.Redecide()
	if n := len(f.times()); len(r.Flows()) != 1 || n != 1 {
		t.Errorf("looked up %d times", n)
	}
	c.send("bye\n")
	if got, reset := c.rest(); got != "" || reset {
		t.Errorf("the end: %q, reset %v", got, reset)
	}
}
