package central

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/pdp/cache"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

const (
	cached    = 64 << 10        // decisions that a node keeps
	dialTime  = 3 * time.Second // for a connection, the TLS handshake included
	epochWait = 5 * time.Second // how long a call for the next epoch is held
	epochLate = 2 * time.Second // by how much its answer may be overdue before the central daemon counts as away
	retry     = 100 * time.Millisecond
	maxRetry  = 2 * time.Second
)

// Versions of flow that this daemon understands.
var versions = []int{flow.Version}

// ClientConfig is what a Client is made from.
type ClientConfig struct {
	Dial   func(context.Context) (net.Conn, error) // to the central daemon, authenticated both ways
	Within time.Duration                           // for an answer
	Grace  time.Duration                           // for how long known decisions hold once it is away
	Report func(State)                             // told of each change, from one goroutine at a time
}

// State is how it stands with the central daemon.
type State struct {
	Away  error // nil: it answers
	Epoch uint64
	Ended bool // it has been away for longer than Grace: nothing that was known holds
}

// Client asks a central decision point for this node.
type Client struct {
	cfg     ClientConfig
	batches batches
	cache   *cache.Cache

	mu      sync.Mutex
	conn    *api.CentralClient // nil: it is away; guarded by mu
	version int                // of flow, agreed on; guarded by mu
	epoch   uint64             // of the last rules that were heard of; guarded by mu
	asks    bool               // those rules ask for the risk; guarded by mu
	changed chan struct{}      // closed when epoch or conn changes; guarded by mu
}

// NewClient makes one that knows nothing yet; Run connects it.
func NewClient(cfg ClientConfig) *Client {
	c := &Client{cfg: cfg, cache: cache.New(cached), changed: make(chan struct{})}
	c.batches = batches{send: c.send, within: cfg.Within}
	return c
}

// Decide answers about a request of which all is filled in that the node knows. An error means that it cannot be decided.
func (c *Client) Decide(ctx context.Context, x *flow.Context, load int, now time.Time) (flow.Decision, error) {
	if d, ok := c.cache.Copy(x, now); ok {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Within)
	defer cancel()
	for {
		d, err := c.batches.ask(ctx, api.Question{Context: *x, Load: load})
		if err != nil {
			return flow.Decision{}, fmt.Errorf("the central decision point: %w", err)
		}
		if epoch := c.cache.Epoch(); d.Epoch < epoch {
			continue // it was overtaken on its way
		} else if d.Epoch > epoch {
			c.news(d.Epoch)
		}
		c.cache.Put(x, d, now) // good from when it was asked, not from when it came
		return d, nil
	}
}

// Watch returns the epoch, and what is closed when it may be another one. The error says that the central daemon is away.
func (c *Client) Watch() (epoch uint64, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return 0, c.changed, fmt.Errorf("the central decision point is away: %w", errdefs.ErrUnavailable)
	}
	return c.epoch, c.changed, nil
}

// Run keeps the connection until ctx ends.
func (c *Client) Run(ctx context.Context) {
	defer c.batches.close()
	lost, ended := time.Now(), true // there is nothing to be forgotten
	for pause := retry; ctx.Err() == nil; {
		met, err := c.session(ctx)
		if met {
			pause, lost, ended = retry, time.Now(), false
		}
		if ctx.Err() != nil {
			return
		}
		c.cfg.Report(State{Away: err, Ended: ended})
		wait := pause
		if left := c.cfg.Grace - time.Since(lost); !ended && left < wait {
			wait = max(left, 0)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if !ended && time.Since(lost) >= c.cfg.Grace {
			ended = true
			c.cache.Reset(0) // an epoch that no decision is of
			c.cfg.Report(State{Away: err, Ended: true})
		}
		pause = min(2*pause, maxRetry)
	}
}

// session is one connection, from its beginning to its end. met: the central daemon was there.
func (c *Client) session(ctx context.Context) (met bool, err error) {
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := c.cfg.Dial(dialing)
	if err != nil {
		return false, err
	}
	conn := api.NewCentralClient(raw)
	defer conn.Close()
	r, err := epoch(ctx, conn, 0)
	if err != nil {
		return false, err
	}
	c.begin(conn, r)
	defer c.end()
	c.cfg.Report(State{Epoch: r.Epoch})
	for {
		if r, err = epoch(ctx, conn, r.Epoch); err != nil {
			return true, err
		}
		c.learn(r)
	}
}

func epoch(ctx context.Context, conn *api.CentralClient, after uint64) (api.CentralEpochResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, epochWait+epochLate)
	defer cancel()
	r, err := conn.Epoch(ctx, api.CentralEpochRequest{Versions: versions, After: after, Wait: epochWait})
	if err == nil && r.Version != flow.Version {
		err = fmt.Errorf("it chose version %d, which this daemon did not offer: %w", r.Version, errdefs.ErrNotImplemented)
	}
	return r, err
}

func (c *Client) begin(conn *api.CentralClient, r api.CentralEpochResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.version, c.asks = conn, r.Version, r.Risk
	c.setLocked(r.Epoch)
}

func (c *Client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = nil
	c.tellLocked()
}

// learn notes the rules in force.
func (c *Client) learn(r api.CentralEpochResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asks = r.Risk
	c.setLocked(r.Epoch)
}

// news notes an epoch of which a decision came before the word of it. Whether its rules ask for the risk is not known yet.
func (c *Client) news(epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asks = true
	c.setLocked(epoch)
}

// AsksRisk tells whether the rules in force ask for the risk of containers.
func (c *Client) AsksRisk() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asks
}

// setLocked forgets what was decided by other rules and tells who waits. c.mu is held.
func (c *Client) setLocked(epoch uint64) {
	if c.cache.Epoch() != epoch {
		c.cache.Reset(epoch)
	}
	c.epoch = epoch
	c.tellLocked()
}

func (c *Client) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// send asks a message of questions.
func (c *Client) send(ctx context.Context, questions []api.Question) ([]flow.Decision, error) {
	c.mu.Lock()
	conn, version := c.conn, c.version
	c.mu.Unlock()
	if conn == nil {
		return nil, fmt.Errorf("it is away: %w", errdefs.ErrUnavailable)
	}
	r, err := conn.Decide(ctx, api.CentralRequest{Version: version, Questions: questions})
	if err != nil {
		return nil, err
	}
	if len(r.Answers) != len(questions) {
		return nil, fmt.Errorf("%d answers to %d questions: %w", len(r.Answers), len(questions), errdefs.ErrInternal)
	}
	for i := range r.Answers {
		if v := r.Answers[i].Version; v != version {
			return nil, fmt.Errorf("a decision of version %d, agreed was %d: %w", v, version, errdefs.ErrInternal)
		}
	}
	return r.Answers, nil
}
