package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/netns/flow"
)

// Prepare implements intercept.Preparer: what is not known is asked for many at a time. An error is nobody's: what is not known afterwards,
// and what a shim or daemon of an older release does not understand, is asked about alone.
func (i *interceptor) Prepare(ctx context.Context, all []flow.Context) {
	now := time.Now()
	unknown := make(map[string][]flow.Context) // by container: the shim says whose they are once for all
	for n := range all {
		if c := &all[n]; i.decisions.Get(c, now) == nil {
			unknown[c.Container] = append(unknown[c.Container], *c)
		}
	}
	for _, rest := range unknown {
		for len(rest) > 0 {
			some := rest[:min(len(rest), api.MaxMany)]
			question := asMany(some)
			for len(question) > api.MaxAsk && len(some) > 1 {
				some = some[:len(some)/2]
				question = asMany(some)
			}
			rest = rest[len(some):]
			if i.prepare(ctx, some, question) != nil {
				return
			}
		}
	}
}

// asMany is a question about many.
func asMany(all []flow.Context) []byte {
	body, _ := json.Marshal(flow.ManyOf(all)) // what cannot be written is not understood
	return body
}

// prepare asks a question about many.
func (i *interceptor) prepare(ctx context.Context, all []flow.Context, question []byte) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(i.within.Load()))
	defer cancel()
	if err := i.deciding.take(ctx); err != nil {
		return err
	}
	defer i.deciding.give()
	before := i.forgets()
	var got flow.Answers
	if err := ask(ctx, i.asker, api.AskMany, json.RawMessage(question), &got); err != nil {
		return err
	}
	if len(got.Which) != len(all) {
		return fmt.Errorf("%d answers to %d questions", len(got.Which), len(all))
	}
	for n := range all {
		if d := got.Of(n); d != nil && d.Version == flow.Version {
			i.keep(&all[n], *d, before)
		}
	}
	return nil
}
