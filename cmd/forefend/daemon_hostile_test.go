package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// hostileScale multiplies the floods below: FOREFEND_HOSTILE=10 makes a million events and thousands of the rest, and
// takes minutes (docs/limits.md has its figures).
func hostileScale(t *testing.T) int {
	t.Helper()
	n := 1
	if s := os.Getenv("FOREFEND_HOSTILE"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil || n < 1 {
			t.Fatalf("FOREFEND_HOSTILE=%q is not a number of 1 or more", s)
		}
	}
	return n
}

// bystander is an honest shim that goes on asking while others misbehave.
type bystander struct {
	took []time.Duration
	stop func()
}

// standBy asks for decisions, one after the other, until stop.
func (s *site) standBy(t *testing.T) *bystander {
	t.Helper()
	c := s.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	b := &bystander{}
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			req, _ := honest(n % 50)
			began := time.Now()
			_, err := c.Admit(ctx, req)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("an honest shim is refused: %v", err)
				return
			}
			b.took = append(b.took, time.Since(began))
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	b.stop = func() { cancel(); done.Wait() }
	return b
}

func (b *bystander) quantile(q float64) time.Duration {
	slices.Sort(b.took)
	if len(b.took) == 0 {
		return 0
	}
	return b.took[min(len(b.took)-1, int(q*float64(len(b.took))))]
}

// resident is the anonymous memory of a process, in MiB.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kib); n == 1 {
			return float64(kib) / 1024
		}
	}
	t.Fatalf("no RssAnon in %q", text)
	return 0
}

// onDisk is what the daemon's durable directory takes, in MiB.
func (s *site) onDisk(t *testing.T) float64 {
	t.Helper()
	var n int64
	err := filepath.WalkDir(s.Root, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n += st.Blocks * 512
			} else {
				n += info.Size()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return float64(n) / (1 << 20)
}

// flood runs one kind of misbehaviour beside an honest shim, and checks what it cost.
func (s *site) flood(t *testing.T, name string, mostMiB float64, misbehave func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		pid := s.daemon(t)
		b := s.standBy(t)
		began, peak := time.Now(), 0.0
		ended := make(chan struct{})
		var watched sync.WaitGroup
		watched.Go(func() {
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for {
				peak = max(peak, resident(t, pid))
				select {
				case <-tick.C:
				case <-ended:
					return
				}
			}
		})
		misbehave(t)
		took := time.Since(began)
		b.stop()
		close(ended)
		watched.Wait()
		t.Logf("%s in %.1f s: anonymous memory %.0f MiB at its peak, disk %.0f MiB, Admit of another %.2f ms median, %.2f ms p99 of %d", name, took.Seconds(),
			peak, s.onDisk(t), b.quantile(0.5).Seconds()*1000, b.quantile(0.99).Seconds()*1000, len(b.took))
		if peak > mostMiB {
			t.Errorf("the daemon takes %.0f MiB, the most is %.0f", peak, mostMiB)
		}
		// A shim waits for 100 ms. Under a load of 27 from other tests it took 147.
		if m := b.quantile(0.5); m > 250*time.Millisecond {
			t.Errorf("another's Admit takes %v", m)
		}
		if now := s.daemon(t); now != pid {
			t.Errorf("process %d took the place of %d", now, pid)
		}
	})
}

// TestHostilePeers lets peers do to a daemon whatever the socket lets them: it stays small, serves others meanwhile, and says
// what it had to lose.
func TestHostilePeers(t *testing.T) {
	scale := hostileScale(t)
	s := newSite(t)
	s.detach(t)
	report := func(t *testing.T, c *api.Client, req api.ObserveRequest) {
		t.Helper()
		req.Version = api.Version
		if err := c.Observe(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	s.flood(t, "first-seen events", 250, func(t *testing.T) {
		c, n := s.client(t), 0
		for range 100 * scale {
			events := make([]api.Event, 1000)
			for i := range events {
				n++
				word := fmt.Sprintf("%d-%s", n, strings.Repeat("x", 100))
				events[i] = api.Event{Time: time.Now(), ID: workload.ID{Namespace: "test", Container: fmt.Sprint("e", n)}, Kind: api.EventLearned,
					Message: word, Fields: map[string]string{"syscall": word, "exe": "/bin/" + word, "destination": word}}
			}
			report(t, c, api.ObserveRequest{Events: events})
		}
	})
	s.flood(t, "runs of distinct workloads", 400, func(t *testing.T) { s.distinct(t, 400*scale, true) })
	s.flood(t, "runs without an end", 450, func(t *testing.T) { s.distinct(t, 400*scale, false) })
	s.flood(t, "containers that never come to be", 450, func(t *testing.T) {
		c := s.client(t)
		for n := range 1_000 * scale {
			req, _ := honest(0)
			req.Facts.ID.Container = fmt.Sprint("never", n)
			req.Facts.Args = []string{"x", strings.Repeat("y", 20_000)}
			if _, err := c.Admit(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
	})
	s.flood(t, "the largest messages", 600, func(t *testing.T) {
		for range 4 {
			c := s.client(t)
			for range 3 * scale {
				req, _ := honest(0)
				req.Facts.Args = []string{strings.Repeat("y", 4<<20-100_000)}
				_, _ = c.Admit(t.Context(), req) // its answer may be too large: that is an answer too
			}
		}
	})
	s.flood(t, "slow and silent peers", 600, func(t *testing.T) { s.slowly(t, min(500*scale, 2_000)) })
	st := statusOf(t, s.client(t))
	said := strings.Join(st.Degraded, "\n")
	for _, want := range []string{"not journaled", "connections of callers were closed"} {
		if !strings.Contains(said, want) {
			t.Errorf("doctor is not told %q: %s", want, said)
		}
	}
	s.stop(t)
	began := time.Now()
	s.detach(t)
	t.Logf("the next daemon serves after %.1f s", time.Since(began).Seconds())
	if disk := s.onDisk(t); disk > 700*float64(scale) {
		t.Errorf("%.0f MiB on disk", disk)
	}
}

// distinct reports runs that have nothing in common, each with as much as a report may hold.
func (s *site) distinct(t *testing.T, runs int, final bool) {
	var peers sync.WaitGroup
	const at = 4
	for peer := range at {
		c := s.client(t)
		peers.Go(func() {
			for n := range runs / at {
				id := fmt.Sprintf("%t-%d-%d", final, peer, n)
				facts := workload.Facts{
					ID: workload.ID{Namespace: "test", Container: id}, Run: id, User: "u" + id, Group: "g" + id, Args: []string{id},
					Image:      workload.Image{Name: "i/" + id, Repository: "i/" + id, Digest: "sha256:" + id},
					Executable: workload.Executable{Path: "/" + id, SHA256: id},
				}
				o := workload.Observation{
					Version: workload.ObservationVersion, ID: facts.ID, Run: id, Name: id, Keys: facts.Keys(), User: facts.User, Group: facts.Group, Image: facts.Image.Name,
					Started: time.Now(), Final: final, Watched: true, Usage: workload.Usage{MemoryPeak: int64(n), CPUPeak: 1, PIDsPeak: 1},
					Syscalls: map[string]uint64{}, Destinations: map[string]uint64{},
				}
				for i := range workload.MaxSyscalls {
					o.Syscalls[fmt.Sprintf("call_%d", (n+i)%5000)] = 1
				}
				for i := range workload.MaxDestinations {
					o.Destinations[fmt.Sprintf("tcp/[2001:db8::%x:%x]:%d", n, peer, i)] = 1
				}
				if err := c.Observe(t.Context(), api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{o}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	peers.Wait()
}

// slowly opens connections that say nothing, begin a message and stop, promise gigabytes, or ask and never read.
func (s *site) slowly(t *testing.T, each int) {
	t.Helper()
	header := func(length uint32) []byte {
		return []byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length), 0, 0, 0, 1, 1, 0}
	}
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for n := range 4 * each {
		c, err := net.Dial("unix", s.Socket())
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EMFILE) {
			break // this process can hold no more
		}
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		switch n % 4 {
		case 1:
			_, _ = c.Write(append(header(4<<20), make([]byte, 1000)...))
		case 2:
			_, _ = c.Write(header(1<<32 - 1))
		case 3:
			_, _ = c.Write(header(4 << 20)[:5])
		}
	}
	c := s.client(t)
	eventually(t, "an answer for a newcomer", func() bool {
		_, err := c.Status(t.Context())
		return err == nil
	})
	eventually(t, "the end of the slow ones", func() bool {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.daemon(t)))
		return err == nil && len(entries) < maxConnections+100
	})
}

// Ten thousand containers come and go: what the daemon holds returns to a plateau.
func TestPlateau(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	pid, c := s.daemon(t), s.client(t)
	round := func(r, n int) (mib float64, fds int) {
		var shims sync.WaitGroup
		for shim := range 4 {
			shims.Go(func() {
				own, err := api.Dial(t.Context(), s.Socket())
				if err != nil {
					t.Error(err)
					return
				}
				defer own.Close()
				for i := range n / 4 {
					life(t, own, fmt.Sprintf("p%d-%d-%d", r, shim, i))
				}
			})
		}
		shims.Wait()
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return resident(t, pid), len(entries)
	}
	n := 200 * hostileScale(t) // ten make ten thousand
	round(0, n)
	first, fds := round(1, n)
	for r := range 3 {
		mib, now := round(r+2, n)
		t.Logf("after %d containers: %.0f MiB, %d descriptors", (r+3)*n, mib, now)
		if now > fds+10 || mib > first+40 {
			t.Errorf("it grows: %.0f MiB and %d descriptors after %d containers, %.0f and %d after %d", first, fds, 2*n, mib, now, (r+3)*n)
		}
	}
	if list, err := c.List(t.Context()); err != nil || len(list.Containers) != 0 {
		t.Errorf("%d containers are still listed: %v", len(list.Containers), err)
	}
}
