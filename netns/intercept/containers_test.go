package intercept

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// attributor says which container opened the next connections, and counts how often it is asked.
type attributor struct {
	mu    sync.Mutex
	id    string
	err   error
	asked int
}

func (a *attributor) Container(context.Context, string, netip.AddrPort, netip.AddrPort) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.id, a.err
}

func (a *attributor) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

func (a *attributor) set(id string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.id, a.err, a.asked = id, err, 0
}

// two are the settings of a pod of two containers, of which the second may contact nobody at 192.0.2.0/24.
func two() *Settings {
	base := func(id string) flow.Context {
		return flow.Context{Namespace: "k8s.io", Container: id, Workload: id + "-app", Image: id + ":1", Data: "of-" + id}
	}
	return &Settings{Base: base("sandbox"), Containers: []Container{
		{Base: base("sandbox")}, {Base: base("web")},
		{Base: base("batch"), Contacts: Contacts{BlockNames: []document.Name{{Host: "pay.test"}}}},
	}}
}

// denied sends a request whose answer is a denial that says why.
func (c *client) denied(request, why string) {
	c.t.Helper()
	c.send(request)
	if resp, got := c.response("GET"); resp.StatusCode != 403 || !strings.Contains(got, why) {
		c.t.Errorf("%.60q: %d %q, want 403 and %q", request, resp.StatusCode, got, why)
	}
}

// TestContainers: each connection of a pod is decided as its container's, and held to what that one may contact.
func TestContainers(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{})
	r.dialer.gates = true
	a := &attributor{}
	r.Attribute(a)
	r.Set(two())
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Image == "web:1" && c.Workload == "web-app" && c.User == "web-app" && c.Data == "of-web" {
			return endpoint(""), nil
		}
		return deny("web-only", "not web"), nil
	})
	request := "GET /a HTTP/1.1\r\nHost: x.test\r\n\r\n"
	a.set("web", nil)
	c := r.client()
	for range 3 {
		c.want(request, "GET", 200, "s GET /a ")
	}
	if n := a.count(); n != 1 {
		t.Errorf("one connection was attributed %d times", n)
	}
	if all := r.Accounts(0, 0, 10).List; len(all) != 1 || all[0].Container != "web" {
		t.Errorf("its account: %+v", all)
	}
	a.set("batch", nil)
	r.client().denied(request, "web-only")
	r.client().denied("GET / HTTP/1.1\r\nHost: pay.test\r\n\r\n", "egress.block has pay.test")

	// It leaves the pod: what it has open is nobody's from the next request on.
	a.set("web", nil)
	c = r.client()
	c.want(request, "GET", 200, "s GET /a ")
	less := two()
	less.Containers = less.Containers[:1]
	r.Set(less)
	c.denied(request, "web-only")
	seen := r.rules.contexts()
	if last := seen[len(seen)-1]; last.Container != "" || last.Workload != "" || last.Namespace != "k8s.io" {
		t.Errorf("what a container that is gone sends is decided as %+v", last)
	}
}

// TestContainersUnknown: what cannot be attributed names no container, is held to what each of them may contact, and says why.
func TestContainersUnknown(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{})
	r.Attribute(&attributor{err: errors.New("the kernel does not say")})
	r.Set(two())
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.Container != "" || c.Image != "" || c.Data != "" {
			t.Errorf("it was decided as %+v", c)
		}
		return deny("all", "strictest"), nil
	})
	r.client().denied("GET / HTTP/1.1\r\nHost: x.test\r\n\r\n", "which container opened the connection is not known: the kernel does not say")
	r.client().denied("GET / HTTP/1.1\r\nHost: pay.test\r\n\r\n", "egress.block has pay.test, of batch")
}

// TestContainersAlone: where nobody shares the namespace nobody is looked for.
func TestContainersAlone(t *testing.T) {
	r := newRig(t, echo(t, "s"), Limits{})
	a := &attributor{}
	r.Attribute(a)
	r.Set(&Settings{Base: flow.Context{Container: "alone"}})
	r.client().want("GET /a HTTP/1.1\r\nHost: x.test\r\n\r\n", "GET", 200, "s GET /a ")
	if seen, n := r.rules.contexts(), a.count(); n != 0 || !strings.HasPrefix(seen[0].Container, "alone") {
		t.Errorf("asked %d times, decided as %q", n, seen[0].Container)
	}
}
