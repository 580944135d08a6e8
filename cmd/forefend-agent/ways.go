package main

import (
	"context"
	"errors"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
)

const (
	// wayWait is how long a tunnel may take to be attached.
	wayWait = 8 * time.Second
	// wayRetry is when a way is asked for again that could not be had, for requests that have a connection meanwhile.
	wayRetry = time.Second
)

// wayKey is what a way depends on.
type wayKey struct {
	encryption flow.Encryption
	dedicated  bool
	endpoint   string
	user       string // of a dedicated one
	container  string // likewise
	qos        string
}

func keyOf(c *flow.Context, d *flow.Decision) wayKey {
	k := wayKey{encryption: d.Profile.Encryption, dedicated: d.Profile.Dedicated, endpoint: d.Profile.Endpoint, qos: d.Profile.QoS}
	if k.dedicated {
		k.user, k.container = c.User, c.Container
	}
	return k
}

// wayFor is what is known of a way. It is guarded by the interceptor's mu.
type wayFor struct {
	intercept.Way
	until  time.Time // it is good for
	retry  time.Time // before that it is asked for by new connections only
	asking bool      // whether it still is the way, for the sake of connections that are kept
}

// Way implements intercept.Ways.
func (i *interceptor) Way(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Way, error) {
	key := keyOf(&c, &d)
	if known, ok := i.way(key); ok {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, wayWait)
	defer cancel()
	if err := i.leading.take(ctx); err != nil {
		return intercept.Way{}, err
	}
	defer i.leading.give()
	if known, ok := i.way(key); ok {
		return known, nil
	}
	var w egress.Way
	if err := ask(ctx, i.asker, api.AskWay, egress.WayQuestion{Profile: d.Profile, User: key.user, Container: c.Container}, &w); err != nil {
		return intercept.Way{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	known := i.entryLocked(key)
	known.Way, known.until = intercept.Way{Tunnel: w.Tunnel, Mark: w.Mark, Device: w.Device, Receipts: w.Receipts}, time.Now().Add(w.Valid)
	return known.Way, nil
}

// way is one that is known and still good.
func (i *interceptor) way(key wayKey) (intercept.Way, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.ways[key]; known != nil && time.Now().Before(known.until) {
		return known.Way, true
	}
	return intercept.Way{}, false
}

// entryLocked is what is known of a way, which may be nothing. mu is held.
func (i *interceptor) entryLocked(key wayKey) *wayFor {
	known := i.ways[key]
	if known == nil {
		if len(i.ways) >= cached { // of more users than tunnels
			clear(i.ways)
		}
		known = &wayFor{}
		i.ways[key] = known
	}
	return known
}

// Keeps implements intercept.Keeper: a connection is kept as long as its tunnel is the one that a new connection would take. Once what is
// known of that is no good any more, it is asked for; who cannot be answered keeps what there is.
func (a again) Keeps(c *flow.Context, d *flow.Decision, tunnel string) (keeps bool, asked <-chan struct{}) {
	i, key := a.i, keyOf(c, d)
	i.mu.Lock()
	defer i.mu.Unlock()
	known, now := i.entryLocked(key), time.Now()
	switch {
	case known.Tunnel != "" && known.Tunnel != tunnel:
		return false, nil
	case known.asking || now.Before(known.until) || now.Before(known.retry):
		return true, nil
	}
	known.asking = true
	done := make(chan struct{})
	context, decision := *c, *d
	i.renewing.Go(func() {
		defer close(done)
		_, err := i.Way(i.ctx, context, decision)
		i.mu.Lock()
		defer i.mu.Unlock()
		known.asking = false
		if err != nil {
			known.retry = time.Now().Add(wayRetry)
		}
	})
	return true, done
}

// again asks once more for a way by which nobody could be reached: its tunnel may have been taken away.
type again struct {
	i *interceptor
	intercept.Marked
}

// Dial implements intercept.Dialer.
func (a again) Dial(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Upstream, error) {
	up, err := dialAgain(ctx, a.i, c, d, a.Marked.Dial)
	if err == nil {
		a.i.contacts.note(&c)
	}
	return up, err
}

// DialPacket implements intercept.Packets.
func (a again) DialPacket(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Socket, error) {
	return dialAgain(ctx, a.i, c, d, a.Marked.DialPacket)
}

func dialAgain[T any](ctx context.Context, i *interceptor, c flow.Context, d flow.Decision, dial func(context.Context, flow.Context, flow.Decision) (T, error)) (T, error) {
	up, err := dial(ctx, c, d)
	if err == nil || ctx.Err() != nil {
		return up, err
	}
	key := keyOf(&c, &d)
	i.mu.Lock()
	old := i.ways[key]
	delete(i.ways, key)
	i.mu.Unlock()
	if old == nil {
		return up, err
	}
	now, failed := i.Way(ctx, c, d)
	if failed != nil {
		return up, errors.Join(err, failed)
	}
	if now == old.Way {
		return up, err
	}
	return dial(ctx, c, d)
}
