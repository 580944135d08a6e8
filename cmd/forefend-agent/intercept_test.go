package main

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// asked is a shim that answers after a while, or never.
type asked struct{ after time.Duration }

func (a asked) Ask(ctx context.Context, _ string, _ []byte) ([]byte, error) {
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
