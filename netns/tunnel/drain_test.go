package tunnel

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

func direct(names ...string) (all []Tunnel) {
	for _, n := range names {
		all = append(all, Tunnel{Name: n, Kind: Direct})
	}
	return all
}

// TestDrainsAreKept: the process to come drains what this one did, and nothing that the configuration has not by then.
func TestDrainsAreKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "made", "drained.json")
	d := drains{file: file}
	var pool *Pool
	begin := func(tunnels []Tunnel, want ...string) {
		t.Helper()
		pool = NewPool(tunnels)
		if err := d.take(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if got := pool.allDrained(); !slices.Equal(got, want) {
			t.Errorf("drained are %q, want %q", got, want)
		}
	}
	set := func(name string, on bool) {
		t.Helper()
		if err := d.set(pool, name, on); err != nil {
			t.Fatal(err)
		}
	}
	begin(direct("a", "b", "c"))
	set("c", true)
	set("a", true)
	set("a", true)
	if err := d.set(pool, "z", true); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("draining nothing: %v", err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != `{"version":1,"tunnels":["a","c"]}` {
		t.Errorf("%s, %v", text, err)
	}
	begin(direct("c", "b", "a"), "a", "c")
	set("a", false)
	begin(direct("a", "b", "c"), "c")

	// The configuration changes meanwhile, or while it is in force.
	begin(direct("a", "b"))
	begin(direct("a", "b", "c"))
	set("b", true)
	set("c", true)
	replace := func(tunnels []Tunnel, want ...string) {
		t.Helper()
		if _, err := d.replace(pool, tunnels); err != nil {
			t.Fatal(err)
		}
		if got := pool.allDrained(); !slices.Equal(got, want) {
			t.Errorf("drained are %q, want %q", got, want)
		}
		begin(tunnels, want...)
	}
	other := direct("a", "b", "c")
	other[1].MTU = 1300
	replace(other, "b", "c")
	replace(direct("a", "b"), "b")
	replace(direct("a", "b", "c"), "b")

	// What cannot be written down is not done.
	d.file = filepath.Join(file, "nowhere")
	for name, on := range map[string]bool{"a": true, "b": false} {
		if err := d.set(pool, name, on); err == nil || pool.drained(name) == on {
			t.Errorf("%s is drained: %v, %v", name, pool.drained(name), err)
		}
	}
}

// TestDrainsDamaged: what is no record drains nothing, and is gone.
func TestDrainsDamaged(t *testing.T) {
	for name, damage := range map[string]func(file string) error{
		"cut short":       func(file string) error { return os.WriteFile(file, []byte(`{"version":1,"tunn`), 0o600) },
		"another version": func(file string) error { return os.WriteFile(file, []byte(`{"version":2,"tunnels":["a"]}`), 0o600) },
		"too large": func(file string) error {
			return os.WriteFile(file, []byte(`{"version":1,"tunnels":["a"]}`+strings.Repeat(" ", maxRecord)), 0o600)
		},
		"a link": func(file string) error {
			return errors.Join(os.WriteFile(file+"-", []byte(`{"version":1,"tunnels":["a"]}`), 0o600), os.Symlink(file+"-", file))
		},
		"a directory": func(file string) error { return os.Mkdir(file, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "drained.json")
			if err := damage(file); err != nil {
				t.Fatal(err)
			}
			d, pool := drains{file: file}, NewPool(direct("a"))
			if err := d.take(t.Context(), pool); err != nil || pool.drained("a") {
				t.Errorf("drained: %v, %v", pool.drained("a"), err)
			}
			if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
			if err := d.set(pool, "a", true); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestDrainTells: whoever drains a tunnel waits until the interceptors know, or until what they were told before is no good any more.
func TestDrainTells(t *testing.T) {
	rig := func(t *testing.T) *Service {
		s := &Service{pool: NewPool(direct("a")), drains: drains{file: filepath.Join(t.TempDir(), "drained.json")}, changes: newWayChanges(), spaces: make(map[uint64]*space)}
		s.spaces[1] = &space{saved: saved{Container: "k8s.io/c"}}
		return s
	}
	drain := func(s *Service, ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() { done <- s.Drain(ctx, api.DrainRequest{Tunnel: "a"}) }()
		synctest.Wait()
		return done
	}
	returned := func(done <-chan error) bool { return len(done) > 0 }
	after := func(t *testing.T, s *Service, number uint64) <-chan uint64 {
		last := make(chan uint64, 1)
		go func() {
			r, err := s.WayChanges(t.Context(), api.WayChangesRequest{Namespace: 1, After: number, Wait: time.Second})
			if err != nil {
				t.Error(err)
			}
			last <- r.Last
		}()
		synctest.Wait()
		return last
	}
	for name, test := range map[string]func(t *testing.T, s *Service){
		"they know": func(t *testing.T, s *Service) {
			first := <-after(t, s, 0)
			asks := after(t, s, first)
			begun := time.Now()
			done := drain(s, t.Context())
			if returned(done) || len(asks) != 1 {
				t.Fatalf("it returned: %v; it was told: %v", returned(done), len(asks) == 1)
			}
			second := <-asks
			if second <= first || !s.pool.drained("a") {
				t.Errorf("from change %d to %d, drained: %v", first, second, s.pool.drained("a"))
			}
			if old := <-after(t, s, first); old != second || returned(done) {
				t.Errorf("after %d the last is %d; it returned: %v", first, old, returned(done))
			}
			asks = after(t, s, second)
			if !returned(done) || <-done != nil || time.Since(begun) != 0 {
				t.Errorf("it did not return, or after %s", time.Since(begun))
			}
			if last := <-asks; last != second || time.Since(begun) != time.Second {
				t.Errorf("nothing has changed, and it was told of %d after %s", last, time.Since(begun))
			}
			if err := s.Drain(t.Context(), api.DrainRequest{Tunnel: "b"}); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("draining nothing: %v", err)
			}
		},
		"nobody asks": func(t *testing.T, s *Service) {
			begun := time.Now()
			if err := <-drain(s, t.Context()); err != nil || time.Since(begun) != valid {
				t.Errorf("after %s: %v", time.Since(begun), err)
			}
		},
		"it knows of the one before": func(t *testing.T, s *Service) {
			first := drain(s, t.Context())
			number := <-after(t, s, 0)
			second := drain(s, t.Context())
			if last := <-after(t, s, number); last != number+1 || !returned(first) || returned(second) {
				t.Errorf("after %d it is %d; returned: %v, %v", number, last, returned(first), returned(second))
			}
			after(t, s, number+1)
			if !returned(first) || !returned(second) {
				t.Errorf("returned: %v, %v", returned(first), returned(second))
			}
		},
		"a tunnel is found down meanwhile": func(t *testing.T, s *Service) {
			done := drain(s, t.Context())
			number := <-after(t, s, 0)
			s.changes.in([]*space{s.spaces[1]})
			if last := <-after(t, s, number); last != number+1 || !returned(done) {
				t.Errorf("after %d it is %d; who drains has returned: %v", number, last, returned(done))
			}
			if done := drain(s, t.Context()); returned(done) {
				t.Error("of the next drain nobody knows")
			}
			if last := <-after(t, s, number+1); last != number+2 {
				t.Errorf("after %d it is %d", number+1, last)
			}
			time.Sleep(valid)
		},
		"the container ends": func(t *testing.T, s *Service) {
			done := drain(s, t.Context())
			s.mu.Lock()
			delete(s.spaces, 1)
			s.mu.Unlock()
			s.changes.ended()
			synctest.Wait()
			if !returned(done) || <-done != nil {
				t.Error("it waits for nobody")
			}
			if _, err := s.WayChanges(t.Context(), api.WayChangesRequest{Namespace: 1}); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("%v", err)
			}
		},
		"whoever drains does not wait": func(t *testing.T, s *Service) {
			ctx, cancel := context.WithCancel(t.Context())
			done := drain(s, ctx)
			cancel()
			if err := <-done; !errors.Is(err, errdefs.ErrUnavailable) || !s.pool.drained("a") {
				t.Errorf("drained: %v, %v", s.pool.drained("a"), err)
			}
		},
		"of another process": func(t *testing.T, s *Service) {
			if last := <-after(t, s, s.changes.last+5); last != s.changes.last {
				t.Errorf("%d, want %d", last, s.changes.last)
			}
			if done := drain(s, t.Context()); returned(done) {
				t.Error("somebody who knows of another process's changes counts")
			}
			time.Sleep(valid)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, rig(t)) })
		})
	}
}
