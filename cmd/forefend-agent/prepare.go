package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
)

// batchesAtOnce is how many questions about many requests are with the shim at once.
const batchesAtOnce = 4

// batch are requests of which nothing is known, and the question about them.
type batch struct {
	all      []flow.Context
	question []byte
}

// Prepare implements intercept.Preparer: what is not known is asked for many at a time. An error is nobody's: what is not known afterwards,
// and what a shim or daemon of an older release does not understand, is asked about alone.
func (i *interceptor) Prepare(ctx context.Context, all []flow.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work := make(chan batch)
	var group sync.WaitGroup
	for range batchesAtOnce {
		group.Go(func() {
			for b := range work {
				if i.prepare(ctx, b) != nil {
					cancel()
				}
			}
		})
	}
	for rest := all; len(rest) > 0 && ctx.Err() == nil; { // what other batches have brought meanwhile is not asked for
		var b batch
		if b, rest = i.gather(rest); len(b.all) > 0 {
			work <- b
		}
	}
	close(work)
	group.Wait()
}

// gather makes a question of the first that are not known, and returns what comes behind them.
func (i *interceptor) gather(all []flow.Context) (b batch, rest []flow.Context) {
	now := time.Now()
	b.question = []byte{'['}
	for n, c := range all {
		if i.decisions.Get(&c, now) != nil {
			continue
		}
		body, err := json.Marshal(egress.DecideQuestion{Context: c, Token: c.Credential})
		if err != nil || len(body) > api.MaxAsk/2 {
			continue
		}
		if len(b.all) == api.MaxMany || len(b.question)+len(",")+len(body)+len("]") > api.MaxAsk {
			rest = all[n:]
			break
		}
		if len(b.all) > 0 {
			b.question = append(b.question, ',')
		}
		b.all, b.question = append(b.all, c), append(b.question, body...)
	}
	b.question = append(b.question, ']')
	return b, rest
}

// prepare asks about a batch.
func (i *interceptor) prepare(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(i.within.Load()))
	defer cancel()
	if err := i.deciding.take(ctx); err != nil {
		return err
	}
	defer i.deciding.give()
	before := i.forgets()
	var got []*flow.Decision
	if err := ask(ctx, i.asker, api.AskMany, json.RawMessage(b.question), &got); err != nil {
		return err
	}
	if len(got) != len(b.all) {
		return fmt.Errorf("%d answers to %d questions", len(got), len(b.all))
	}
	for n, d := range got {
		if d != nil && d.Version == flow.Version {
			i.keep(&b.all[n], *d, before)
		}
	}
	return nil
}
