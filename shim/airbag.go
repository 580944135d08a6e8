package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// airbags raises the predicted memory limits of one shim's containers before they are reached (docs/decisions/0057). A sentry
// does it, from the first container that has such a limit on; what is not urgent is done here.
type airbags struct {
	tell  func(*bag, raising) // what happened, in order; it must not block
	stand func(*sentry)       // keeps the sentry at work until the order to end

	mu     sync.Mutex
	sentry *sentry         // nil: none stands; guarded by mu, which makes one order wait for another
	closed bool            // guarded by mu
	bags   [maxGuards]*bag // by slot; guarded by mu
	last   uint64          // id given last; guarded by mu

	heed   *os.File       // the sentry's news
	ended  sync.WaitGroup // the sentry's thread and who listens
	arming sync.WaitGroup
}

// bag is the airbag of one container.
type bag struct {
	who    *container
	slot   int
	id     uint64
	memory *cgroup.Memory
	table  *api.Airbag // guarded by airbags.mu
	soft   int64       // somebody's memory.high; math.MaxInt64: nobody's; guarded by airbags.mu
	arms   bool        // a goroutine makes new marks; guarded by airbags.mu
}

// raising is what the airbag did, or could not do.
type raising struct {
	at       time.Time
	took     time.Duration // from the look to the limit read back
	late     time.Duration // how much later than it was due the look was
	from, to int64         // limits; the same: it stays
	need     int64
	rate     float64
	held     string // why it stays, or is not as high as it should be
	broken   error  // the airbag is of no use for this container any more
}

func newAirbags(tell func(*bag, raising)) *airbags { return &airbags{tell: tell, stand: standApart} }

// standApart is a sentry's thread.
func standApart(s *sentry) {
	runtime.LockOSThread() // never unlocked: the thread's priority ends with it
	hurry()
	s.stand()
}

// arm begins to watch a group whose limit is a predicted one: by the clock at first, until its bell is set. On an error
// nothing is watched.
func (a *airbags) arm(c *container, group cgroup.Group, table *api.Airbag, soft int64) (_ *bag, err error) {
	memory, err := group.Memory()
	if err != nil {
		return nil, err
	}
	b := &bag{who: c, memory: memory, table: table, soft: soft}
	defer func() {
		if err != nil {
			memory.Close()
		}
	}()
	limit, err := memory.Limit()
	if err != nil {
		return nil, err
	}
	if limit == math.MaxInt64 {
		return nil, errors.New("the kernel has no memory limit where one was predicted")
	}
	if _, err := memory.State(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.startLocked(); err != nil {
		return nil, err
	}
	if err := a.placeLocked(b); err != nil {
		return nil, err
	}
	g := guard{id: b.id, files: memory.Files(), terms: termsOf(table, soft), limit: limit, bell: -1, stale: true}
	if err := memory.Throttle(throttleAt(&g.terms, limit, false)); err != nil {
		a.bags[b.slot] = nil
		return nil, errors.Join(err, memory.Throttle(soft))
	}
	a.orderLocked(b, order{do: actAdd, guard: g})
	return b, nil
}

// placeLocked gives a bag its slot and id. The caller holds a.mu.
func (a *airbags) placeLocked(b *bag) error {
	for slot, other := range a.bags {
		if other == nil {
			a.last++
			b.slot, b.id = slot, a.last
			a.bags[slot] = b
			return nil
		}
	}
	return fmt.Errorf("one shim watches %d memory limits at most", maxGuards)
}

// orderLocked has the sentry do something about a bag, and returns once it has. The caller holds a.mu.
func (a *airbags) orderLocked(b *bag, o order) error {
	if a.sentry == nil {
		return errors.New("the shim is ending")
	}
	o.slot, o.guard.id = b.slot, b.id
	return a.sentry.carryOut(o)
}

// carryOut hands an order over and waits for its end. One caller at a time.
func (s *sentry) carryOut(o order) error {
	s.order = o
	s.ring(s.wake)
	var count [8]byte
	for {
		switch _, err := unix.Read(int(s.obeyed), count[:]); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("airbag: %w", err)
		case s.order.errno != 0:
			return cgroup.MemoryError(s.order.errno)
		default:
			return nil
		}
	}
}

// disarm ends the watch of a container; its limit stays. It returns once nobody looks at the group any more.
func (a *airbags) disarm(c *container) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.bags {
		if b != nil && b.who == c {
			a.dropLocked(b)
			a.forgetLocked(b)
		}
	}
}

// release ends the watch of a group that lives on: memory.high is somebody else's again.
func (a *airbags) release(b *bag, soft int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bags[b.slot] != b {
		return nil // it was lost
	}
	a.dropLocked(b)
	defer a.forgetLocked(b)
	return b.memory.Throttle(soft)
}

// dropLocked lets the sentry look at a group no more. The caller holds a.mu.
func (a *airbags) dropLocked(b *bag) {
	_ = a.orderLocked(b, order{do: actDrop}) // it fails where the sentry has lost the group, and where there is none
}

// forgetLocked gives back what a bag holds that the sentry no longer looks at. The caller holds a.mu.
func (a *airbags) forgetLocked(b *bag) {
	a.bags[b.slot] = nil
	b.memory.Close() // epoll forgets its bell
}

// change says that somebody else is about to move limits of the group. On v2 nothing is raised until fit: the kernel would
// kill for a limit that runc writes below what is in use by then, and holds the container at memory.high instead. v1
// refuses such a limit. What was raised before has been told when it returns.
func (a *airbags) change(b *bag) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bags[b.slot] != b || a.sentry == nil {
		return
	}
	_ = a.orderLocked(b, order{do: actChange}) // or it is lost, which is told
	a.hearLocked(a.sentry)
}

// keep says, after change, that the limit will not be lowered: who writes a lower one has an old one.
func (a *airbags) keep(b *bag) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bags[b.slot] == b {
		_ = a.orderLocked(b, order{do: actKeep}) // or it is lost, which is told
	}
}

// fit follows a decision: its table, and the limit that the kernel has now, unless it was raised since change or was to be kept.
func (a *airbags) fit(b *bag, table *api.Airbag, soft int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bags[b.slot] != b {
		return
	}
	b.table, b.soft = table, soft
	if err := a.orderLocked(b, order{do: actFit, guard: guard{terms: termsOf(table, soft)}}); err != nil && a.sentry != nil {
		a.dropLocked(b)
		a.lostLocked(b, notice{}, err)
	}
}

// marks are the uses at which the bell of a group with a limit rings: early, so that a fast grower's rate is known when it
// matters; where room becomes short; and beyond, for a group whose usage was there before, by file cache, and whose need follows.
func marks(limit int64) []int64 {
	trip := tripAt(limit)
	if trip <= 0 {
		return nil
	}
	beyond := limit - trip
	return []int64{trip / 4 * 3, trip, trip + beyond/2, trip + beyond/4*3}
}

// startLocked posts the sentry if none stands yet. The caller holds a.mu.
func (a *airbags) startLocked() error {
	if a.closed {
		return errors.New("the shim is ending")
	}
	if a.sentry != nil {
		return nil
	}
	s, err := newSentry()
	if err != nil {
		return fmt.Errorf("airbag: %w", err)
	}
	a.sentry, a.heed = s, os.NewFile(uintptr(s.heed), "airbag")
	a.ended.Go(func() { a.stand(s) })
	a.ended.Go(func() { a.listen(s) })
	return nil
}

func newSentry() (s *sentry, err error) {
	s = &sentry{epoll: -1, wake: -1, obeyed: -1, heed: -1, meminfo: -1}
	defer func() {
		if err != nil {
			s.close()
			_ = unix.Close(int(s.heed))
		}
	}()
	for _, f := range []struct {
		fd   *int32
		open func() (int, error)
	}{
		{&s.epoll, func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) }},
		{&s.wake, func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }},
		{&s.obeyed, func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }},
		{&s.heed, func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) }},
		{&s.meminfo, func() (int, error) { return unix.Open("/proc/meminfo", unix.O_RDONLY|unix.O_CLOEXEC, 0) }},
	} {
		n, err := f.open()
		if err != nil {
			return nil, err
		}
		*f.fd = int32(n)
	}
	return s, unix.EpollCtl(int(s.epoll), unix.EPOLL_CTL_ADD, int(s.wake), &unix.EpollEvent{Events: unix.EPOLLIN, Pad: -1})
}

// close closes what the thread and who orders it hold.
func (s *sentry) close() {
	for _, fd := range []int32{s.epoll, s.wake, s.obeyed, s.meminfo} {
		if fd >= 0 {
			_ = unix.Close(int(fd))
		}
	}
}

// close ends the sentry.
func (a *airbags) close() {
	a.mu.Lock()
	s := a.sentry
	a.sentry, a.closed = nil, true
	if s != nil {
		_ = s.carryOut(order{do: actEnd})
		_ = a.heed.Close() // and with it who listens
	}
	for _, b := range a.bags {
		if b != nil {
			a.forgetLocked(b)
		}
	}
	a.mu.Unlock()
	a.ended.Wait()
	a.arming.Wait()
	if s != nil {
		s.close()
	}
}

// listen hears what the sentry has to tell, until it ends.
func (a *airbags) listen(s *sentry) {
	var count [8]byte
	for {
		if _, err := a.heed.Read(count[:]); err != nil {
			return // closed
		}
		a.mu.Lock()
		a.hearLocked(s)
		a.mu.Unlock()
	}
}

// hearLocked hears all that a sentry has told so far. The caller holds a.mu.
func (a *airbags) hearLocked(s *sentry) {
	for ; s.read.Load() < s.told.Load(); s.read.Add(1) {
		a.heardLocked(s.notices[s.read.Load()%maxNotices])
	}
}

func (a *airbags) heardLocked(n notice) {
	b := a.bags[n.slot]
	if b == nil || b.id != n.id {
		return // it has ended meanwhile
	}
	switch n.kind {
	case noticeRaised:
		a.tell(b, n.raising(n.because(b.table)))
	case noticeCalm:
		a.rearmLocked(b, n.to)
	case noticeLost:
		a.lostLocked(b, n, cgroup.MemoryError(n.errno))
	}
}

// raising is the news as people are told.
func (n *notice) raising(held string) raising {
	at := time.Now().Add(-time.Duration(clock() - n.at))
	return raising{at: at, took: time.Duration(n.took), late: time.Duration(n.late), from: n.from, to: n.to, need: n.need, rate: n.rate, held: held}
}

// hurry lets the thread run before all others of its kind: where both processors are busy, an ordinary thread would
// wait for milliseconds in which a container grows by as many megabytes. Where nothing of it is allowed, it runs as others do.
func hurry() {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if unix.SchedSetAttr(0, &attr, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	}
}

// rearmLocked lets another goroutine make the marks of a limit. The caller holds a.mu.
func (a *airbags) rearmLocked(b *bag, limit int64) {
	if b.arms || a.closed {
		return
	}
	b.arms = true
	a.arming.Go(func() {
		armed, err := b.memory.Arm(marks(limit))
		a.mu.Lock()
		defer a.mu.Unlock()
		b.arms = false
		switch {
		case a.bags[b.slot] != b || a.sentry == nil: // it has ended meanwhile
			if err == nil {
				armed.Close()
			}
		case err != nil:
			a.dropLocked(b)
			a.lostLocked(b, notice{from: limit, to: limit}, err)
		default:
			a.adoptLocked(b, armed, limit)
		}
	})
}

// adoptLocked gives a bag its bell. The caller holds a.mu.
func (a *airbags) adoptLocked(b *bag, armed cgroup.Armed, limit int64) {
	before := b.memory.Adopt(armed)
	fd, events := b.memory.Bell()
	_ = unix.EpollCtl(int(a.sentry.epoll), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Pad: int32(b.slot)}) // a bell that does not ring is what slowLook is for
	_ = a.orderLocked(b, order{do: actRing, guard: guard{bell: int32(fd), bellEvents: events, limit: limit}})
	before.Close() // epoll forgets it
}

// lostLocked ends the watch of a group that cannot be watched, and that the sentry no longer looks at: it is gone, or else its limit must not stay where nobody
// raises it. The caller holds a.mu.
func (a *airbags) lostLocked(b *bag, n notice, err error) {
	defer a.forgetLocked(b)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	limit, e := b.memory.Limit()
	if e != nil {
		limit = n.from
	}
	r := raising{at: time.Now(), from: limit, to: limit, need: n.need, rate: n.rate, broken: err}
	if limit < b.table.Ceiling {
		if e := errors.Join(b.memory.SetLimit(b.table.Ceiling), b.memory.Throttle(b.soft)); e != nil {
			r.broken = errors.Join(err, e)
		} else {
			r.to = b.table.Ceiling
		}
	}
	a.tell(b, r)
}
