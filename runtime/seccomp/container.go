package seccomp

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// Container is one supervised container: its own processes and those that exec
// adds, each of which brings a listener.
type Container struct {
	supervisor *Supervisor
	id         string
	socket     *net.UnixListener
	state      atomic.Pointer[state]

	calls         tallies
	foreignCalls  lazyTally // of 32-bit calls
	destinations  tagged
	programs      tagged
	recent        recent
	budget        budget // of destinations
	programBudget budget
	listeners     listeners
	dropped       atomic.Uint64
	refused       atomic.Uint64

	handovers sync.WaitGroup // accept and the handovers under way
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error

	mu    sync.Mutex // guards conns
	conns map[*net.UnixConn]struct{}
}

func newContainer(s *Supervisor, id string, socket *net.UnixListener, table *Table) *Container {
	c := &Container{supervisor: s, id: id, socket: socket, closing: make(chan struct{}), conns: make(map[*net.UnixConn]struct{})}
	c.state.Store(&state{own: table, executed: table})
	return c
}

// Counts returns the totals since Attach; it also works after Close.
func (c *Container) Counts() Counts {
	counts := Counts{Allowed: map[string]uint64{}, Denied: map[string]uint64{}, EventsDropped: c.dropped.Load(), Refused: c.refused.Load()}
	for i := range c.calls {
		c.calls[i].load().collect(nativeNumbering(), counts.Allowed, counts.Denied)
	}
	c.foreignCalls.load().collect(foreignNumbering(), counts.Allowed, counts.Denied)
	counts.Serving, counts.Stopping = c.in(Serving), c.in(Stopping)
	counts.Destinations, counts.DestinationsLost = c.destinations.collect()
	counts.Programs, counts.ProgramsLost = c.programs.collect()
	return counts
}

// in counts the calls that were allowed in a phase, nil for none.
func (c *Container) in(p Phase) map[string]uint64 {
	t := c.calls[p].load()
	if t == nil {
		return nil
	}
	allowed, denied := map[string]uint64{}, map[string]uint64{}
	t.collect(nativeNumbering(), allowed, denied)
	return allowed
}

// TakeTrace returns the order of the watched calls that passed since it was last called, nil when there were none.
// Calls of other architectures than the machine's are not in it.
func (c *Container) TakeTrace() *workload.Trace { return c.recent.take() }

// Close stops listening and answering, and returns when nothing of the container
// is left but its counts. Call it when the container has exited: in processes that
// still run, watched calls answer ENOSYS afterwards.
func (c *Container) Close() error {
	c.closeOnce.Do(func() {
		close(c.closing)
		err := c.socket.Close()
		c.mu.Lock()
		for conn := range c.conns {
			err = errors.Join(err, conn.SetDeadline(time.Unix(1, 0)))
		}
		c.mu.Unlock()
		c.handovers.Wait()
		c.listeners.close()
		c.supervisor.forget(c)
		if err != nil {
			c.closeErr = fmt.Errorf("close seccomp supervision of %s: %w", c.id, err)
		}
	})
	return c.closeErr
}

// accept serves handovers until the socket closes.
func (c *Container) accept() {
	room := make(chan struct{}, handoversAtOnce)
	for {
		conn, err := c.socket.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: try again, but not in a hurry.
			c.report(fmt.Errorf("accept seccomp handover: %w", err))
			select {
			case <-c.closing:
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case room <- struct{}{}:
		case <-c.closing:
			_ = conn.Close()
			return
		}
		c.handovers.Go(func() {
			defer func() { <-room }()
			if err := c.handover(conn); err != nil {
				c.report(err)
				c.refused.Add(1)
			}
		})
	}
}

func (c *Container) news() {
	if f := c.supervisor.config.OnNew; f != nil {
		f(c.id)
	}
}

func (c *Container) report(err error) {
	if f := c.supervisor.config.OnError; f != nil {
		f(c.id, err)
	}
}

// handover receives one listener and gives it to the loop. It owns conn.
func (c *Container) handover(conn *net.UnixConn) error {
	defer conn.Close()
	if !c.track(conn) {
		return nil
	}
	defer c.untrack(conn)
	if err := peerIsRoot(conn); err != nil {
		return err
	}
	n, fd, err := takeOver(conn)
	if err != nil {
		return err
	}
	if n.container != c.id {
		closeAll([]int{fd})
		return fmt.Errorf("%w: it is about container %q", ErrBadState, n.container)
	}
	wakeSynchronously(fd) // without it calls cost more, that is all
	l, err := newListener(fd, c, n)
	if err != nil {
		return err
	}
	return c.listeners.start(l)
}

func (c *Container) track(conn *net.UnixConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		return false
	default:
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *Container) untrack(conn *net.UnixConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}
