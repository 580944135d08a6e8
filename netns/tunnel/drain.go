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

// drains are what is drained, as it is written down.
type drains struct {
	file    string
	writing sync.Mutex // held while the pool changes and the file follows it
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

// Drain implements api.Tunnels. It waits for interceptors no longer than they could go by what they were told before: one that nobody can
// tell, or of a shim that does not ask, holds nobody up for ever.
func (s *Service) Drain(ctx context.Context, r api.DrainRequest) error {
	if err := s.drains.set(s.pool, r.Tunnel, !r.Undo); err != nil {
		return err
	}
	number := s.changes.everywhere()
	expired := time.NewTimer(valid)
	defer expired.Stop()
	for {
		heard := s.changes.hear()
		behind := s.changes.behind(s.all(), number)
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
