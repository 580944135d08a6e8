package main

import (
	"context"
	"errors"
	"io"
	"time"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
)

const (
	// wayWait is how long a tunnel may take to be attached.
	wayWait = 8 * time.Second
	// keptWait is how long a request on a connection that is kept waits until it is known whether that is still its way. Where ways were
	// forgotten it waits as a new connection does.
	keptWait = 100 * time.Millisecond
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
	until  time.Time     // it is good for
	retry  time.Time     // before that it is asked for by new connections only
	asof   uint64        // how often ways had been forgotten when this was told, or could not be
	asking chan struct{} // whether it still is the way, for the sake of connections that are kept; closed with the answer, nil: nobody asks
}

// ForgetWays implements agent.Interceptor. What is being asked for is asked for once more, and what is being dialled is given up if it is
// led elsewhere by now.
func (i *interceptor) ForgetWays() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waysForgot++
	for o := range i.dialling {
		if o.way != nil && !o.asking {
			o.asking = true
			i.renewing.Go(o.ask)
		}
	}
}

func (i *interceptor) forgettings() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.waysForgot
}

// Way is where new connections are led: what is known, or what the shim says.
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
	for {
		before := i.forgettings()
		var w egress.Way
		if err := ask(ctx, i.asker, api.AskWay, egress.WayQuestion{Profile: d.Profile, User: key.user, Container: c.Container}, &w); err != nil {
			return intercept.Way{}, err
		}
		way := intercept.Way{Tunnel: w.Tunnel, Mark: w.Mark, Device: w.Device, Receipts: w.Receipts}
		if i.keepWay(key, way, w.Valid, before) {
			return way, nil
		}
	}
}

// keepWay keeps a way unless it was overtaken on its way here by ForgetWays.
func (i *interceptor) keepWay(key wayKey, way intercept.Way, valid time.Duration, before uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waysForgot != before {
		return false
	}
	known := i.entryLocked(key)
	known.Way, known.until, known.asof = way, time.Now().Add(valid), before
	return true
}

// way is one that is known and still good.
func (i *interceptor) way(key wayKey) (intercept.Way, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if known := i.ways[key]; known != nil && known.asof == i.waysForgot && time.Now().Before(known.until) {
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
		known = &wayFor{asof: i.waysForgot}
		i.ways[key] = known
	}
	return known
}

// Keeps implements intercept.Keeper: a connection is kept as long as its tunnel is the one that a new connection would take. Once what is
// known of that is no good any more, it is asked for; who cannot be answered keeps what there is.
func (a again) Keeps(c *flow.Context, d *flow.Decision, tunnel string) (keeps bool, asked <-chan struct{}, wait time.Duration) {
	i, key := a.i, keyOf(c, d)
	i.mu.Lock()
	defer i.mu.Unlock()
	known, now := i.entryLocked(key), time.Now()
	forgotten := known.asof != i.waysForgot
	switch {
	case forgotten && known.asking != nil:
		return true, known.asking, wayWait
	case !forgotten && known.Tunnel != "" && known.Tunnel != tunnel:
		return false, nil, 0
	case !forgotten && (known.asking != nil || now.Before(known.until) || now.Before(known.retry)):
		return true, nil, 0
	}
	done, before := make(chan struct{}), i.waysForgot
	known.asking = done
	context, decision := *c, *d
	i.renewing.Go(func() {
		defer close(done)
		_, err := i.Way(i.ctx, context, decision)
		i.mu.Lock()
		defer i.mu.Unlock()
		known.asking = nil
		if err != nil {
			known.until, known.retry, known.asof = time.Time{}, time.Now().Add(wayRetry), before
		}
	})
	if forgotten {
		return true, done, wayWait
	}
	return true, done, keptWait
}

// dialling is a dial in progress.
type dialling struct {
	i        *interceptor
	ctx      context.Context // of the dial
	giveUp   context.CancelFunc
	context  flow.Context
	decision flow.Decision

	// guarded by the interceptor's mu
	way    *intercept.Way // by which it goes; nil: it is being asked for
	asking bool           // whether that still is the way
	left   bool           // it was given up, since it is not
}

// dials notes a dial that begins.
func (i *interceptor) dials(ctx context.Context, c flow.Context, d flow.Decision) *dialling {
	o := &dialling{i: i, context: c, decision: d}
	o.ctx, o.giveUp = context.WithCancel(ctx)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dialling[o] = struct{}{}
	return o
}

// Way implements intercept.Ways, for that dial.
func (o *dialling) Way(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Way, error) {
	for {
		before := o.i.forgettings()
		way, err := o.i.Way(ctx, c, d)
		if err != nil {
			return way, err
		}
		if o.goes(way, before) {
			return way, nil
		}
	}
}

// goes notes the way, unless ways were forgotten meanwhile.
func (o *dialling) goes(way intercept.Way, before uint64) bool {
	o.i.mu.Lock()
	defer o.i.mu.Unlock()
	if o.i.waysForgot != before {
		return false
	}
	o.way = &way
	return true
}

// ask finds out whether the dial goes where a new one would, and gives it up if not. Where there is no answer it goes on: by nothing else
// than it was led by.
func (o *dialling) ask() {
	for {
		before := o.i.forgettings()
		way, err := o.i.Way(o.ctx, o.context, o.decision)
		if o.asked(way, err, before) {
			return
		}
	}
}

// asked takes the answer, unless ways were forgotten meanwhile.
func (o *dialling) asked(way intercept.Way, err error, before uint64) bool {
	o.i.mu.Lock()
	defer o.i.mu.Unlock()
	if o.i.waysForgot != before && o.ctx.Err() == nil {
		return false
	}
	o.asking = false
	if err == nil && way.Tunnel != o.way.Tunnel {
		o.left = true
		o.giveUp()
	}
	return true
}

// end notes that the dial has, and tells whether it was given up.
func (o *dialling) end() (left bool) {
	o.giveUp()
	o.i.mu.Lock()
	defer o.i.mu.Unlock()
	delete(o.i.dialling, o)
	return o.left
}

// again asks once more for a way by which nobody could be reached: its tunnel may have been taken away.
type again struct{ i *interceptor }

// Dial implements intercept.Dialer.
func (a again) Dial(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Upstream, error) {
	dial := func(o *dialling) (intercept.Upstream, error) { return intercept.Marked{Ways: o}.Dial(o.ctx, c, d) }
	up, err := dialAgain(ctx, a.i, c, d, dial, func(up intercept.Upstream) (string, io.Closer) { return up.Tunnel, up.Conn })
	if err == nil {
		a.i.contacts.note(&c)
	}
	return up, err
}

// DialPacket implements intercept.Packets.
func (a again) DialPacket(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Socket, error) {
	dial := func(o *dialling) (intercept.Socket, error) { return intercept.Marked{Ways: o}.DialPacket(o.ctx, c, d) }
	return dialAgain(ctx, a.i, c, d, dial, func(s intercept.Socket) (string, io.Closer) { return s.Tunnel, s })
}

// dialAgain dials, once more by another way where there is one by then. by is the tunnel of what was dialled, and what closes it.
func dialAgain[T any](ctx context.Context, i *interceptor, c flow.Context, d flow.Decision,
	dial func(*dialling) (T, error), by func(T) (tunnel string, conn io.Closer)) (T, error) {
	up, err := dialNow(ctx, i, c, d, dial, by)
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
	return dialNow(ctx, i, c, d, dial, by)
}

// dialNow dials by a way that was not forgotten meanwhile: nothing has gone by the connection yet.
func dialNow[T any](ctx context.Context, i *interceptor, c flow.Context, d flow.Decision,
	dial func(*dialling) (T, error), by func(T) (tunnel string, conn io.Closer)) (T, error) {
	for {
		before := i.forgettings()
		o := i.dials(ctx, c, d)
		up, err := dial(o)
		if left := o.end(); err != nil && left && ctx.Err() == nil {
			continue
		}
		if err != nil || i.forgettings() == before {
			return up, err
		}
		way, failed := i.Way(ctx, c, d)
		tunnel, conn := by(up)
		if failed == nil && way.Tunnel == tunnel {
			return up, nil
		}
		if err := errors.Join(failed, conn.Close()); err != nil {
			return up, err
		}
	}
}
