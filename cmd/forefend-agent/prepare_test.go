package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/netns/flow"
)

// batches is a shim that decides by host, many at a time unless it is of an older release.
type batches struct {
	older bool
	short bool // an answer is missing

	mu    sync.Mutex
	alone int // guarded by mu
	many  int // guarded by mu
}

func (b *batches) Ask(_ context.Context, method string, body []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	decide := func(c flow.Context) *flow.Decision {
		if c.Host == "unknown" {
			return nil
		}
		return &flow.Decision{Version: flow.Version, Epoch: 1, Reason: c.Host, Depends: []flow.Field{flow.FieldHost}}
	}
	switch {
	case len(body) > api.MaxAsk:
		return nil, errors.New("too long")
	case method == api.AskDecide:
		b.alone++
		var c flow.Context
		err := json.Unmarshal(body, &c)
		return fmt.Appendf(nil, `{"version":%d,"epoch":1,"reason":"alone"}`, flow.Version), err
	case b.older:
		return nil, errors.New("agents do not ask for that")
	}
	b.many++
	var many flow.Many
	if err := json.Unmarshal(body, &many); err != nil {
		return nil, err
	}
	all, err := many.Contexts(api.MaxMany)
	if err != nil {
		return nil, err
	}
	var answers flow.Answers
	for _, c := range all {
		if c.Container != all[0].Container || c.Credential != flow.Credential(c.User) {
			return nil, fmt.Errorf("%+v among %+v", c, all[0])
		}
		answers.Add(decide(c))
	}
	if b.short {
		answers.Which = answers.Which[1:]
	}
	return json.Marshal(answers)
}

// TestPrepare: what is not known is asked for many at a time, and what that does not answer alone.
func TestPrepare(t *testing.T) {
	var all []flow.Context
	for n := range 300 {
		user := fmt.Sprint("u", n%3)
		all = append(all, flow.Context{Version: flow.Version, Host: fmt.Sprintf("h%d", n/2), // two of each
			Container: fmt.Sprint(n % 2), User: user, Credential: flow.Credential(user), Path: strings.Repeat("/", n*n/50)})
	}
	all = append(all, flow.Context{Version: flow.Version, Host: "unknown"})
	for name, shim := range map[string]*batches{"many": {}, "an older shim": {older: true}, "one that leaves some out": {short: true}} {
		t.Run(name, func(t *testing.T) {
			alone := shim.older || shim.short
			made, err := newInterceptor(shim)
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			i := made.(*interceptor)
			i.within.Store(int64(10 * time.Second))
			i.Prepare(t.Context(), all)
			for _, c := range all {
				want := c.Host
				if alone || want == "unknown" {
					want = "alone"
				}
				if d, err := i.Decide(t.Context(), c); err != nil || d.Reason != want {
					t.Fatalf("%s: %+v, %v", c.Host, d, err)
				}
			}
			if shim.many < 3 && !alone || shim.many > 30 || shim.alone > 1 && !alone {
				t.Errorf("%d questions about many, %d about one", shim.many, shim.alone)
			}
			asked := shim.many
			if i.Prepare(t.Context(), all[:300]); shim.many != asked && !alone {
				t.Error("what is known is asked for again")
			}
		})
	}
}
