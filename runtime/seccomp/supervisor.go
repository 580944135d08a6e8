package seccomp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// ErrClosed is returned by Attach after Close.
var ErrClosed = errors.New("seccomp supervisor is closed")

// defaultEventBuffer holds a first run's surprises of a few containers.
const defaultEventBuffer = 256

// Config says where a Supervisor reports to. All functions may be nil.
type Config struct {
	// OnEvent gets each Event, one at a time. While it runs events are buffered,
	// and dropped (and counted) when the buffer is full; calls never wait for it.
	OnEvent func(Event)
	// OnNew is told of a container's destination or program that was not counted before. Calls wait for it: it must
	// not block. Any goroutine.
	OnNew func(container string)
	// OnError gets what went wrong in a handover from runc; any goroutine.
	OnError func(container string, err error)
	// OnSignal gets the signals that executed processes send by kill, where that is watched, before they are sent. It
	// must return soon: who sends one waits for it.
	OnSignal func(container string, signal int)
	// EventBuffer is how many events may wait; 0 means 256.
	EventBuffer int
}

// Supervisor answers the notifications of all containers of a shim. It costs
// nothing until the first Attach, and a waiting goroutine per process that runc
// started after it.
type Supervisor struct {
	config Config
	events chan Event

	mu         sync.Mutex // guards all below
	containers map[*Container]struct{}
	closed     bool
	dispatched chan struct{} // closed when the last event was delivered; nil before the first Attach
}

// NewSupervisor returns a supervisor without containers.
func NewSupervisor(config Config) *Supervisor {
	if config.EventBuffer <= 0 {
		config.EventBuffer = defaultEventBuffer
	}
	return &Supervisor{config: config, containers: make(map[*Container]struct{})}
}

// Attach listens on socketPath, at which runc will hand over the listeners of the
// container with that runc id, and answers them from table. The socket's
// directory is made with mode 0700, or must have it. Call it before runc creates
// the container; ctx bounds only the call itself. It returns an error wrapping
// ErrNoNotify where the kernel cannot do this.
func (s *Supervisor) Attach(ctx context.Context, container, socketPath string, table *Table) (*Container, error) {
	if table == nil {
		return nil, fmt.Errorf("attach container %s: no seccomp table", container)
	}
	if err := s.start(); err != nil {
		return nil, fmt.Errorf("attach container %s: %w", container, err)
	}
	l, err := listen(ctx, socketPath)
	if err != nil {
		return nil, fmt.Errorf("attach container %s: %w", container, err)
	}
	c := newContainer(s, container, l, table)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(fmt.Errorf("attach container %s: %w", container, ErrClosed), l.Close())
	}
	s.containers[c] = struct{}{}
	c.handovers.Go(c.accept)
	return c, nil
}

// start starts the dispatcher with the first container.
func (s *Supervisor) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if s.dispatched != nil {
		return nil
	}
	if err := checkNotifySizes(); err != nil {
		return err
	}
	s.events, s.dispatched = make(chan Event, s.config.EventBuffer), make(chan struct{})
	go s.dispatch()
	return nil
}

func (s *Supervisor) dispatch() {
	defer close(s.dispatched)
	for e := range s.events {
		if s.config.OnEvent != nil {
			s.config.OnEvent(e)
		}
	}
}

// forget takes c off the list.
func (s *Supervisor) forget(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.containers, c)
}

// Close closes every container, delivers the events that wait, and returns when
// no goroutine or descriptor of the supervisor is left. Watched calls of
// containers that still run answer ENOSYS from then on.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	containers := slices.Collect(maps.Keys(s.containers))
	s.mu.Unlock()
	var errs []error
	for _, c := range containers {
		errs = append(errs, c.Close())
	}
	if s.dispatched != nil {
		close(s.events)
		<-s.dispatched
	}
	return errors.Join(errs...)
}
