package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/whole"
)

// maxDrainsWait bounds how long a call of Drains is held.
const maxDrainsWait = time.Minute

// drains are what is drained, as it is written down, and which interceptors know of it.
type drains struct {
	file string

	writing sync.Mutex // held while the pool changes and the file follows it

	mu      sync.Mutex
	last    uint64        // number of the last change; it only grows, also from one process to the next; guarded by mu
	changed chan struct{} // closed with the next change; guarded by mu
	heard   chan struct{} // closed when another interceptor knows of it, or a namespace has ended; guarded by mu
}

func newDrains(file string) *drains {
	return &drains{file: file, last: uint64(time.Now().UnixNano()), changed: make(chan struct{}), heard: make(chan struct{})}
}

// savedDrains is what is written down. It is for the boots to come as well: what an operator drains stays so until he takes it back.
type savedDrains struct {
	Version int      `json:"version"`
	Tunnels []string `json:"tunnels"`
}

// take has a pool's tunnels drained as is written down. What is no record is removed, and the configuration's tunnels are all there is to drain.
func (d *drains) take(ctx context.Context, pool *Pool) error {
	var saved savedDrains
	err := readRecord(d.file, &saved)
	if err == nil && saved.Version != recordVersion {
		err = fmt.Errorf("version %d", saved.Version)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("file", d.file).Warn("forefend tunneld: which tunnels are drained cannot be read: none is")
		_ = os.Remove(d.file) // or it is there the next time
		return nil
	}
	for _, name := range saved.Tunnels {
		if err := pool.Drain(name, true); err != nil {
			log.G(ctx).WithField("tunnel", name).Info("forefend tunneld: a tunnel that was drained is not configured any more")
		}
	}
	return d.follow(saved.Tunnels, pool)
}

// follow writes down what of a pool is drained, if it is not what was before.
func (d *drains) follow(before []string, pool *Pool) error {
	now := pool.allDrained()
	if slices.Equal(now, before) {
		return nil
	}
	body, err := json.Marshal(savedDrains{Version: recordVersion, Tunnels: now})
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(d.file), 0o700), whole.Keep(d.file, body))
	}
	if err != nil {
		return fmt.Errorf("write down which tunnels are drained: %w", err)
	}
	return nil
}

// set drains a tunnel of a pool, or takes that back; what cannot be written down is not done.
func (d *drains) set(pool *Pool, name string, on bool) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	before := pool.allDrained()
	if err := pool.Drain(name, on); err != nil {
		return err
	}
	if err := d.follow(before, pool); err != nil {
		return errors.Join(err, pool.Drain(name, slices.Contains(before, name)))
	}
	return nil
}

// replace has a pool hand out other tunnels. One that is not among them is not drained when it comes again.
func (d *drains) replace(pool *Pool, tunnels []Tunnel) (cut []Lease, err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	before := pool.allDrained()
	cut = pool.Replace(tunnels)
	return cut, d.follow(before, pool)
}

// next numbers another change, and tells who waits for one.
func (d *drains) next() (number uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	close(d.changed)
	d.changed = make(chan struct{})
	return d.last
}

// know notes the last change that a namespace's interceptor knows of. It returns the last one that there is, and what is closed with the next.
func (d *drains) know(sp *space, number uint64) (last uint64, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if number == d.last && sp.knows != number {
		sp.knows = number
		d.wakeLocked()
	}
	return d.last, d.changed
}

// hear returns what is closed when interceptors know of more than now, or fewer are left that do not.
func (d *drains) hear() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.heard
}

// behind are the spaces whose interceptors do not know of a change yet.
func (d *drains) behind(all []*space, number uint64) []*space {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(all, func(sp *space) bool { return sp.knows >= number })
}

// ended notes that a space has.
func (d *drains) ended() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wakeLocked()
}

// wakeLocked has those look again who wait for interceptors. mu is held.
func (d *drains) wakeLocked() {
	close(d.heard)
	d.heard = make(chan struct{})
}

// Drain implements api.Tunnels. It waits for interceptors no longer than they could go by what they were told before: one that nobody can
// tell, or of a shim that does not ask, holds nobody up for ever.
func (s *Service) Drain(ctx context.Context, r api.DrainRequest) error {
	if err := s.drains.set(s.pool, r.Tunnel, !r.Undo); err != nil {
		return err
	}
	number := s.drains.next()
	expired := time.NewTimer(valid)
	defer expired.Stop()
	for {
		heard := s.drains.hear()
		behind := s.drains.behind(s.all(), number)
		if len(behind) == 0 {
			return nil
		}
		select {
		case <-heard:
		case <-expired.C:
			log.G(ctx).WithField("tunnel", r.Tunnel).WithField("containers", names(behind)).Warn("forefend tunneld: agents did not say that they know of a drain; what they were told before is no good any more by now")
			return nil
		case <-ctx.Done():
			return fmt.Errorf("the tunnel is as it was wanted, but not all agents know yet: %w: %w", ctx.Err(), errdefs.ErrUnavailable)
		}
	}
}

// names are the containers of spaces.
func names(all []*space) (names []string) {
	for _, sp := range all {
		sp.mu.Lock()
		names = append(names, sp.saved.Container)
		sp.mu.Unlock()
	}
	return names
}

// Drains implements api.Tunnels.
func (s *Service) Drains(ctx context.Context, r api.DrainsRequest) (api.DrainsResponse, error) {
	sp, err := s.find(r.Namespace)
	if err != nil {
		return api.DrainsResponse{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(max(r.Wait, 0), maxDrainsWait))
	defer cancel()
	for {
		last, changed := s.drains.know(sp, r.After)
		if last != r.After {
			return api.DrainsResponse{Last: last}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return api.DrainsResponse{Last: last}, nil
		}
	}
}
