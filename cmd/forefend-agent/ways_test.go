package main

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
)

// leads is a shim that leads to a tunnel, or fails.
type leads struct {
	mu     sync.Mutex
	tunnel string
	valid  time.Duration
	failed error
	asked  int
}

func (l *leads) Ask(context.Context, string, []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if l.failed != nil {
		return nil, l.failed
	}
	return json.Marshal(egress.Way{Tunnel: l.tunnel, Valid: l.valid})
}

func (l *leads) to(tunnel string, valid time.Duration, failed error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tunnel, l.valid, l.failed = tunnel, valid, failed
}

func (l *leads) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// TestKeeps: a connection is kept while its way is good, then asked about once, and left once the answer is another tunnel. Where there is
// no answer it is kept, and nobody asks again at once.
func TestKeeps(t *testing.T) {
	shim := &leads{tunnel: "one", valid: time.Hour}
	made, err := newInterceptor(shim)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	i := made.(*interceptor)
	c, d := flow.Context{}, flow.Decision{}
	keeps := func(tunnel string, want, asks bool) {
		t.Helper()
		got, asked, _ := i.dialer.Keeps(&c, &d, tunnel)
		if got != want || (asked != nil) != asks {
			t.Errorf("%s is kept: %v, asked: %v", tunnel, got, asked != nil)
		}
		if asked != nil {
			<-asked
		}
	}
	if way, err := i.Way(t.Context(), c, d); err != nil || way.Tunnel != "one" {
		t.Fatalf("%+v, %v", way, err)
	}
	keeps("one", true, false)
	keeps("other", false, false)

	// It is no good any more: who asks hears of the new one, by then nobody asks.
	expire := func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.ways[keyOf(&c, &d)].until = time.Time{}
	}
	expire()
	shim.to("two", time.Hour, nil)
	keeps("one", true, true)
	keeps("one", false, false)
	keeps("two", true, false)

	// Two ask at once: one question.
	expire()
	before := shim.count()
	shim.mu.Lock()
	_, first, _ := i.dialer.Keeps(&c, &d, "two")
	if got, second, _ := i.dialer.Keeps(&c, &d, "two"); first == nil || !got || second != nil {
		t.Error("both ask, or none")
	}
	shim.mu.Unlock()
	<-first
	if n := shim.count() - before; n != 1 {
		t.Errorf("%d questions", n)
	}

	// No answer.
	expire()
	shim.to("", 0, context.DeadlineExceeded)
	before = shim.count()
	keeps("two", true, true)
	i.mu.Lock()
	i.ways[keyOf(&c, &d)].retry = time.Now().Add(time.Hour) // what a busy machine may take
	i.mu.Unlock()
	keeps("two", true, false)
	if n := shim.count() - before; n != 1 {
		t.Errorf("%d questions", n)
	}
	if _, err := i.Way(t.Context(), c, d); err == nil {
		t.Error("a new connection has a way that is no good any more")
	}

	// Of others nothing is known: a dedicated tunnel of somebody's.
	shim.to("three", time.Hour, nil)
	d.Profile.Dedicated, c.User = true, "alice"
	keeps("three", true, true)
	keeps("three", true, false)
	keeps("two", false, false)
}
