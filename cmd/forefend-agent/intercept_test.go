package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// asked is a shim that answers after a while, or never.
type asked struct{ after time.Duration }

func (a asked) Ask(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	if a.after == 0 {
		return json.Marshal(flow.Decision{Version: flow.Version, Epoch: 1})
	}
	select {
	case <-time.After(a.after):
		return json.Marshal(flow.Decision{Version: flow.Version, Epoch: 1})
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A decision that does not come in the time that the shim's settings give it is none; settings without a time, of an older
// release, mean the default and not that nothing is ever in time.
func TestDecideWithin(t *testing.T) {
	for name, c := range map[string]struct {
		document document.Document
		after    time.Duration
		denied   bool
	}{
		"in time":  {document.Document{DecideWithin: time.Minute}, 60 * time.Millisecond, false},
		"too late": {document.Document{DecideWithin: 20 * time.Millisecond}, time.Hour, true},
		"unsaid":   {document.Document{}, 0, false},
		"never":    {document.Document{}, time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := newInterceptor(asked{c.after})
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			settings, err := json.Marshal(c.document)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := made.Set(api.InterceptRequest{Settings: settings}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, err = made.(*interceptor).Decide(t.Context(), flow.Context{Version: flow.Version})
			if (err != nil) != c.denied || c.denied && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
		})
	}
}

// crowded is a shim that takes as many questions at once as an agent may have open.
type crowded struct{ open, most, all atomic.Int32 }

func (c *crowded) Ask(_ context.Context, _ string, _ []byte) ([]byte, error) {
	n := c.open.Add(1)
	defer c.open.Add(-1)
	c.most.Store(max(c.most.Load(), n))
	c.all.Add(1)
	time.Sleep(time.Millisecond)
	if n > api.MaxAsks {
		return nil, errors.New("too many")
	}
	return json.Marshal(flow.Decision{Version: flow.Version, Epoch: 1})
}

// A thousand connections at once wait for their turns, and those that are alike are asked about once or a few times.
func TestDecideCrowd(t *testing.T) {
	shim := &crowded{}
	made, err := newInterceptor(shim)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	i := made.(*interceptor)
	i.within.Store(int64(time.Minute))
	failed := make(chan error, 1000)
	for range cap(failed) {
		go func() {
			_, err := i.Decide(t.Context(), flow.Context{Version: flow.Version})
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if most, all := shim.most.Load(), shim.all.Load(); most > decisionsAtOnce || all > 2*decisionsAtOnce {
		t.Errorf("%d questions at once, %d in all", most, all)
	}
	for range decisionsAtOnce {
		i.deciding <- struct{}{}
	}
	i.within.Store(int64(10 * time.Millisecond))
	if _, err := i.Decide(t.Context(), flow.Context{Version: flow.Version, Destination: netip.MustParseAddrPort("192.0.2.1:1")}); err != nil {
		t.Errorf("what is known waits for nobody: %v", err)
	}
	i.decisions.Reset(2)
	if _, err := i.Decide(t.Context(), flow.Context{Version: flow.Version}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a turn: %v", err)
	}
}
