package tunnel

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/owner"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/root"
)

// drainRig is a service whose time the test makes pass, with one container and two tunnels of a class.
type drainRig struct {
	*Service
	t       testing.TB
	c       container
	ask     api.AttachRequest
	ahead   atomic.Int64  // of the clock
	told    atomic.Uint64 // the last change that the container's shim was told of
	tunnels []Tunnel
	dir     string
	end     func() // of the service
}

func newDrainRig(t testing.TB) *drainRig {
	t.Helper()
	root.Test(t)
	a, b := newGateway(t).tunnel(t, "a", 1), newGateway(t).tunnel(t, "b", 1)
	a.DeadAfter, b.DeadAfter = 1000*time.Hour, 1000*time.Hour
	r := &drainRig{t: t, c: newContainer(t), tunnels: []Tunnel{a, b}, dir: t.TempDir()}
	t.Cleanup(func() { r.end() })
	r.begin()
	guarded, err := r.Guard(t.Context(), r.c.guard())
	if err != nil {
		t.Fatal(err)
	}
	r.ask = api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard, Endpoint: "test"}}
	r.follow()
	return r
}

// begin has a service begin, with what an earlier one has written down.
func (r *drainRig) begin() {
	r.t.Helper()
	s, err := Open(r.t.Context(), NewPool(r.tunnels), r.dir, r.dir+"-drained", func(int) error { return nil })
	if err != nil {
		r.t.Fatal(err)
	}
	s.now = func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }
	r.Service = s
	r.end = func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Run(ended); err != nil {
			r.t.Error(err)
		}
	}
}

// follow has somebody be the container's shim, who hears of each change, until the test ends.
func (r *drainRig) follow() {
	s, ctx := r.Service, r.t.Context()
	done := make(chan struct{})
	r.t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for err, after := error(nil), uint64(0); err == nil && ctx.Err() == nil; {
			var got api.WayChangesResponse
			got, err = s.WayChanges(ctx, api.WayChangesRequest{Namespace: r.ask.Namespace, After: after, Wait: time.Minute})
			after = got.Last
			r.told.Store(after)
		}
	}()
}

// leads checks which tunnel the container is led to.
func (r *drainRig) leads(want string) api.Attached {
	r.t.Helper()
	got, err := r.Attach(r.t.Context(), r.ask)
	if err != nil || got.Tunnel != want {
		r.t.Fatalf("led to %+v, want %s, %v", got, want, err)
	}
	return got
}

func (r *drainRig) drain(tunnel string, on bool) {
	r.t.Helper()
	if err := r.Drain(r.t.Context(), api.DrainRequest{Tunnel: tunnel, Undo: !on}); err != nil {
		r.t.Fatal(err)
	}
}

// has checks how many devices the container has once some time has passed.
func (r *drainRig) has(want int, after time.Duration) {
	r.t.Helper()
	r.ahead.Add(int64(after))
	r.look(r.t.Context())
	if got := devices(r.t, r.c); len(got) != want {
		r.t.Errorf("devices %v, want %d", got, want)
	}
}

// opening is a connection by a way that waits for its first answer.
func (r *drainRig) opening(way api.Attached) (fd int) {
	r.t.Helper()
	ns, err := enter.Process(r.c.pid)
	if err != nil {
		r.t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(way.Mark)), unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, way.Device))
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: 1, Addr: [4]byte{192, 0, 2, 1}})
		}
		return err
	}); !errors.Is(err, unix.EINPROGRESS) {
		r.t.Fatal(err)
	}
	return fd
}

// TestRootDrain: who holds a tunnel that is drained is led to another one; the device of the drained one goes with the last connection by it.
func TestRootDrain(t *testing.T) {
	r := newDrainRig(t)
	old := r.leads("a")
	r.drain("a", true)
	r.leads("b")
	if told := r.told.Load(); told != r.changes.last {
		t.Errorf("the container's shim was told of change %d, not of %d", told, r.changes.last)
	}
	r.has(2, 0) // by what was answered before, there are still new connections
	fd := r.opening(old)
	r.has(2, unaskedDrained+time.Second)
	r.has(2, time.Minute)
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
	r.has(1, lookEveryDrained)
	if all := r.pool.List(); !all[0].Draining || len(all[0].Leases) != 0 || len(all[1].Leases) != 1 {
		t.Errorf("%+v", all)
	}

	// It is back, and nobody is led there for that; then the other one goes, whose device stays that long.
	r.drain("a", false)
	r.leads("b")
	r.drain("b", true)
	r.leads("a")
	r.has(2, valid)
	r.drain("b", false)
	r.has(2, unaskedDrained)
	r.leads("a")

	// Another process drains what this one did.
	again := func(drained ...string) {
		t.Helper()
		r.end()
		r.begin()
		r.follow()
		if got := r.pool.allDrained(); !slices.Equal(got, drained) {
			t.Errorf("the next process drains %q, want %q", got, drained)
		}
	}
	r.drain("a", true)
	r.leads("b")
	again("a")
	r.leads("b")
	r.drain("b", true)
	again("a", "b")
	if got, err := r.Attach(t.Context(), r.ask); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("led to %+v, %v", got, err)
	}
	r.drain("b", false)
	r.leads("b")
	r.drain("a", false)
	again()

	// Nobody asks for either any more.
	r.has(0, unasked)
}

// TestRootRestIsCut: a connection that holds its device no more learns that it has ended, where it would wait for an answer in vain.
func TestRootRestIsCut(t *testing.T) {
	r := newDrainRig(t)
	r.load = func(*space, *use) (owner.Load, error) { return owner.Load{Connections: 1, Quiet: restDrained}, nil }
	fd := r.opening(r.leads("a"))
	defer func() { _ = unix.Close(fd) }()
	r.drain("a", true)
	r.has(1, 0)
	if err, failed := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != 0 || failed != nil {
		t.Errorf("under its device a connection has %v, %v", unix.Errno(err), failed)
	}
	r.has(0, unaskedDrained)
	if err, failed := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); unix.Errno(err) != unix.ECONNABORTED || failed != nil {
		t.Errorf("without its device a connection has %v, %v", unix.Errno(err), failed)
	}
}

// TestRootBusy: a tunnel that nobody asks for stays as long as a connection goes by it, up to a bound where nothing passes.
func TestRootBusy(t *testing.T) {
	for name, c := range map[string]struct {
		drained bool
		load    owner.Load
		err     error
		after   time.Duration
		stays   bool
	}{
		"asked for a while ago":            {false, owner.Load{}, nil, unasked - time.Minute, true},
		"by nobody":                        {false, owner.Load{}, nil, unasked, false},
		"busy":                             {false, owner.Load{Connections: 1}, nil, 100 * time.Hour, true},
		"at rest":                          {false, owner.Load{Connections: 1, Quiet: rest - time.Second}, nil, 100 * time.Hour, true},
		"dead":                             {false, owner.Load{Connections: 1, Quiet: rest}, nil, unasked, false},
		"drained, busy":                    {true, owner.Load{Connections: 1}, nil, 100 * time.Hour, true},
		"drained, at rest":                 {true, owner.Load{Connections: 1, Quiet: restDrained - time.Second}, nil, 100 * time.Hour, true},
		"drained, at rest for long":        {true, owner.Load{Connections: 1, Quiet: restDrained}, nil, unaskedDrained, false},
		"nobody knows":                     {false, owner.Load{}, unix.ENOENT, rest - time.Minute, true},
		"nobody knows, and it is long ago": {false, owner.Load{}, unix.ENOENT, rest, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newDrainRig(t)
			r.load = func(*space, *use) (owner.Load, error) { return c.load, c.err }
			r.leads("a")
			r.drain("a", c.drained)
			want := 0
			if c.stays {
				want = 1
			}
			r.has(want, c.after)
		})
	}
	t.Run("looked for seldom", func(t *testing.T) {
		r := newDrainRig(t)
		looks := 0
		r.load = func(*space, *use) (owner.Load, error) {
			looks++
			return owner.Load{Connections: 1}, nil
		}
		r.leads("a")
		r.has(1, unasked)
		r.has(1, lookEvery/2)
		if r.has(1, lookEvery/2); looks != 2 {
			t.Errorf("connections were looked for %d times, want 2", looks)
		}
	})
}
