package shim

import (
	"sync/atomic"
	"syscall"
	"unsafe" // and for go:linkname

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
)

// How a sentry looks at a group. While nothing happens it sleeps until the group's bell rings; then it looks by the clock until
// the group has been calm for a while: marks can be set anew only slowly (see cgroup.Memory), and the clock tells how fast need grows.
const (
	fastGrowth   = 2 << 30 // bytes/s that a container may grow by before anybody has seen it
	shortestLook = millisecond
	longestLook  = 100 * millisecond // while it is awake
	calmAfter    = second            // without growth it goes to sleep
	calmGrowth   = 1 << 20           // bytes that are no growth
	slowLook     = second            // where the bell cannot tell all, or room may come of itself
	keepLook     = 4 * millisecond   // how long an old limit that is written over this one may stand
	rateMemory   = 250 * millisecond // how long a rate that was seen counts

	millisecond = 1_000_000 // of the sentry's clock: nanoseconds, CLOCK_MONOTONIC
	second      = 1000 * millisecond

	maxGuards  = 128 // groups of one sentry
	maxNotices = 256
)

// A sentry raises the limits of groups on a thread of its own that Go's scheduler has no hold on: it enters a system call, as far
// as the scheduler knows, and does not come back before the end. A thread that did come back had to wait for the scheduler's locks and
// for each stop of the world, which takes as long as it takes the shim's other threads to get a processor: 180 ms were seen beside a
// container with a large share of both processors, and a healthy container was killed in less (docs/decisions/0057).
//
// Hence the rules for all that runs there, which no compiler checks: every function is nosplit and norace, calls only such functions, allocates
// nothing, writes no pointer, and makes system calls by syscall.RawSyscall6. What it shares with others is plain numbers.
type sentry struct {
	epoll   int32
	wake    int32 // an eventfd: there is an order
	obeyed  int32 // an eventfd: the order was carried out
	heed    int32 // an eventfd: there is news
	meminfo int32

	order order // written by who holds airbags.mu, between an obeyed and a wake

	// A ring of what happened, for airbags.listen.
	notices [maxNotices]notice
	told    atomic.Uint64 // news written
	read    atomic.Uint64 // news read

	latest atomic.Int64 // how late the latest look was

	guards [maxGuards]guard // the thread's own from here on
	top    int              // guards beyond it are not used
	buf    cgroup.MemoryBuffer
	events [16]unix.EpollEvent
	ending bool
}

// guard is what the thread knows of one group. Times are those of its clock.
type guard struct {
	live  bool
	id    uint64 // of the bag
	files cgroup.MemoryFiles
	terms terms
	limit int64 // as the kernel has it

	need int64   // at the last look
	seen int64   // when that was; 0: never
	rate float64 // of need, bytes/s, recently
	high int64   // need that growth is measured from
	grew int64   // when need was last above high
	next int64   // the next look; 0: when the bell rings
	late int64   // how much later than that the last one was

	bell       int32 // -1: none yet
	bellEvents uint32
	listens    bool  // epoll waits for the bell
	stale      bool  // the bell's marks are not those of limit
	held       cause // why growth is held, as last told
	ended      bool  // nothing will be raised any more
	changing   bool  // somebody else is moving limits
	raised     bool  // it was raised since that began
	keeps      bool  // they are not to lower this one, but may not know it
}

// action is what an order wants.
type action uint8

const (
	actAdd    action = iota // guard what the order brings
	actDrop                 // guard it no longer
	actChange               // somebody else is about to move limits
	actKeep                 // ... and not to lower this one
	actFit                  // ... has done so: these are the terms now
	actRing                 // this is the bell, of marks for that limit
	actEnd
)

// order is what the thread is to do next, and what came of it.
type order struct {
	do    action
	slot  int
	guard guard         // for actAdd; of the others' concern are id, terms, limit, bell and bellEvents
	errno syscall.Errno // the answer
}

// noticeKind is what happened to a group.
type noticeKind uint8

const (
	noticeRaised noticeKind = iota // the limit was moved, or growth is held
	noticeCalm                     // it is calm, and its bell needs other marks
	noticeLost                     // it can no longer be read
)

// notice is what the thread has to tell.
type notice struct {
	kind      noticeKind
	slot      int
	id        uint64
	at, took  int64 // from the look to the limit read back
	late      int64 // how much later than it was due the look was
	from, to  int64 // limits; the same: it stays
	need      int64
	rate      float64
	held      cause
	available int64         // of the node, with causeNode
	errno     syscall.Errno // with causeKernel and noticeLost
}

// What takes a thread out of Go's scheduler and back: both are exported for this by package runtime. The function that calls
// entersyscall must not return before exitsyscall.

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// stand is the thread, until the order to end. Before, its goroutine was locked to it.
//
//go:nosplit
//go:norace
func (s *sentry) stand() {
	entersyscall()
	for !s.ending {
		n := s.wait()
		now := clock()
		for i := range n {
			e := &s.events[i]
			if e.Pad < 0 {
				s.obey(now)
				continue
			}
			if g := &s.guards[e.Pad]; g.live {
				g.listens, g.next, g.grew = false, now, now
			}
		}
		for i := range s.top {
			if g := &s.guards[i]; g.live && g.next != 0 && now >= g.next {
				g.late = now - g.next
				s.latest.Store(max(s.latest.Load(), g.late))
				s.look(i, g, now)
			}
		}
	}
	exitsyscall()
}

// wait returns how many events there are, once there are any or a look is due.
//
//go:nosplit
//go:norace
func (s *sentry) wait() int {
	first := int64(0)
	for i := range s.top {
		if g := &s.guards[i]; g.live && g.next != 0 && (first == 0 || g.next < first) {
			first = g.next
		}
	}
	timeout := int64(-1)
	if first != 0 {
		timeout = max(0, first-clock()+millisecond-1) / millisecond
	}
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(s.epoll), uintptr(unsafe.Pointer(&s.events)), uintptr(len(s.events)), uintptr(timeout), 0, 0)
	if errno != 0 { // EINTR
		return 0
	}
	return int(n)
}

// obey carries out the order.
//
//go:nosplit
//go:norace
func (s *sentry) obey(now int64) {
	s.take(s.wake)
	o := &s.order
	g := &s.guards[o.slot]
	o.errno = 0
	switch {
	case o.do == actEnd:
		s.ending = true
	case o.do == actAdd:
		*g = o.guard
		g.live, g.next = true, now
		s.top = max(s.top, o.slot+1)
	case !g.live || g.id != o.guard.id: // it was lost meanwhile
		o.errno = unix.ENODEV
	case o.do == actDrop:
		g.live = false
	case o.do == actChange:
		g.changing, g.raised, g.keeps = true, false, false
	case o.do == actKeep:
		g.keeps, g.next = true, now
	case o.do == actFit:
		o.errno = s.fit(g, now)
	case o.do == actRing:
		g.bell, g.bellEvents, g.listens = o.guard.bell, o.guard.bellEvents, false
		g.stale, g.next = o.guard.limit != g.limit, now
	}
	s.ring(s.obeyed)
}

// fit goes by the order's terms from now on, and by the limit that the kernel has, unless it was raised since the change began or was to be
// kept.
//
//go:nosplit
//go:norace
func (s *sentry) fit(g *guard, now int64) syscall.Errno {
	g.terms = s.order.guard.terms
	g.changing, g.ended, g.held, g.stale = false, false, causeNone, true
	is, errno := g.files.Limit(&s.buf)
	if errno == 0 && (g.raised || g.keeps) && is < g.limit {
		is, errno = g.limit, g.files.SetLimit(g.limit, &s.buf)
	}
	if errno != 0 {
		return errno
	}
	g.limit, g.raised, g.keeps = is, false, false
	g.grew, g.next = now, now
	return s.throttle(g)
}

// throttle puts memory.high where room becomes short: on v2 it holds a fast grower until the limit is raised. At
// the end of all raising it is not needed: the kernel does what it does to anybody.
//
//go:nosplit
//go:norace
func (s *sentry) throttle(g *guard) syscall.Errno {
	return g.files.Throttle(throttleAt(&g.terms, g.limit, g.ended), &s.buf)
}

// look reads what a group needs, raises its limit where room is short, and says when to look again.
//
//go:nosplit
//go:norace
func (s *sentry) look(slot int, g *guard, began int64) {
	state, errno := g.files.State(&s.buf)
	if errno != 0 {
		s.lose(slot, g, errno)
		return
	}
	if g.keeps {
		s.keep(g)
	}
	g.measure(state.Need, clock()) // not began: what was taken while the thread did not run would count as taken at once
	switch {
	case g.ended || g.changing && g.files.Unified():
	case short(g.limit, g.need, g.rate):
		s.raise(slot, g, began)
	default:
		g.held = causeNone
	}
	s.rest(slot, g, state.Usage, began)
}

// keep puts back a limit that was written over by who did not know it: runc takes long on a busy machine, and what it was told before is
// lower than what a container has come to meanwhile.
//
//go:nosplit
//go:norace
func (s *sentry) keep(g *guard) {
	is, errno := g.files.Limit(&s.buf)
	if errno != 0 {
		return
	}
	if is >= g.limit || g.files.SetLimit(g.limit, &s.buf) != 0 {
		g.limit = is
	}
}

// measure notes what is needed, and how fast that grows.
//
//go:nosplit
//go:norace
func (g *guard) measure(need, now int64) {
	d := now - g.seen
	switch {
	case g.seen == 0:
		g.high = need
	case d > calmAfter:
		g.rate = 0 // since it slept: a mean that says nothing of now
	default:
		seen := float64(need-g.need) / float64(max(d, shortestLook/2)) * second
		g.rate = max(0, seen, g.rate*(1-float64(d)/rateMemory))
	}
	g.need, g.seen = need, now
	if need > g.high+calmGrowth || need < g.high-calmGrowth {
		if need > g.high {
			g.grew = now
		}
		g.high = need
	}
}

// raise moves the limit as judge says, and tells.
//
//go:nosplit
//go:norace
func (s *sentry) raise(slot int, g *guard, began int64) {
	if g.changing && !g.keeps { // somebody else may just have moved it
		if is, errno := g.files.Limit(&s.buf); errno == 0 {
			g.limit = is
		}
	}
	from, available := g.limit, int64(0)
	r := judge(&g.terms, g.limit, g.need, g.rate)
	if r.to > 0 {
		if has, ok := cgroup.Available(s.meminfo, &s.buf); ok { // else it is not the container's fault
			available = has
			r = spare(&g.terms, g.limit, r, has)
		}
	}
	var errno syscall.Errno
	if r.to > 0 {
		if errno = g.files.SetLimit(r.to, &s.buf); errno == 0 {
			g.limit, g.stale, g.raised = r.to, true, true
		} else {
			r.held = causeKernel
		}
	}
	g.ended = r.last && g.limit >= g.terms.ceiling
	if g.limit != from || g.ended {
		if e := s.throttle(g); e != 0 {
			r.held, errno = causeKernel, e
		}
	}
	if g.limit == from && (r.held == causeNone || r.held == g.held) {
		return // nothing new
	}
	g.held = r.held
	if n := s.next(noticeRaised, slot, g); n != nil {
		n.at, n.took, n.late, n.from = began, clock()-began, g.late, from
		n.held, n.available, n.errno = r.held, available, errno
		s.tell()
	}
}

// rest says when to look next: by the clock while there may be growth, else when the bell rings.
//
//go:nosplit
//go:norace
func (s *sentry) rest(slot int, g *guard, usage, now int64) {
	if g.keeps {
		g.next = now + keepLook
		return
	}
	if g.ended && !g.stale {
		g.next = 0
		return
	}
	calm := now-g.grew >= calmAfter
	if calm && g.stale {
		if g.files.Unified() && g.bell >= 0 { // memory.high is its one mark, and has been moved
			g.stale = false
		} else if n := s.next(noticeCalm, slot, g); n != nil {
			s.tell()
		}
	}
	if !calm || g.stale {
		wait := int64(float64(max(0, g.limit-g.need)) / 4 / max(g.rate, fastGrowth) * second)
		if g.held != causeNone {
			wait = longestLook / 4
		}
		g.next = now + min(max(wait, shortestLook), longestLook)
		return
	}
	if !g.listens {
		g.files.Hush(g.bell, &s.buf)
		s.listenTo(slot, g)
		g.listens, g.next = true, now // what happened before the bell was on
		return
	}
	g.next = 0
	if g.held != causeNone || usage >= tripAt(g.limit) {
		g.next = now + slowLook
	}
}

// listenTo lets epoll wait for the bell, once.
//
//go:nosplit
//go:norace
func (s *sentry) listenTo(slot int, g *guard) {
	e := unix.EpollEvent{Events: g.bellEvents | unix.EPOLLONESHOT, Pad: int32(slot)}
	syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(s.epoll), unix.EPOLL_CTL_MOD, uintptr(g.bell), uintptr(unsafe.Pointer(&e)), 0, 0) // a bell that does not ring is what slowLook is for
}

// lose ends the watch of a group that cannot be read.
//
//go:nosplit
//go:norace
func (s *sentry) lose(slot int, g *guard, errno syscall.Errno) {
	n := s.next(noticeLost, slot, g)
	if n == nil {
		g.next = clock() + longestLook // nobody could be told
		return
	}
	g.live = false
	n.errno = errno
	s.tell()
}

// next is where to write news of a group; nil: too much of it has not been read yet.
//
//go:nosplit
//go:norace
func (s *sentry) next(kind noticeKind, slot int, g *guard) *notice {
	told := s.told.Load()
	if told-s.read.Load() >= maxNotices {
		return nil
	}
	n := &s.notices[told%maxNotices]
	*n = notice{kind: kind, slot: slot, id: g.id, at: clock(), from: g.limit, to: g.limit, need: g.need, rate: g.rate}
	return n
}

// tell passes the news of next on.
//
//go:nosplit
//go:norace
func (s *sentry) tell() {
	s.told.Add(1)
	s.ring(s.heed)
}

//go:nosplit
//go:norace
func (s *sentry) ring(eventfd int32) {
	one := [8]byte{1}
	syscall.RawSyscall6(unix.SYS_WRITE, uintptr(eventfd), uintptr(unsafe.Pointer(&one)), uintptr(len(one)), 0, 0, 0) // full: it rings already
}

//go:nosplit
//go:norace
func (s *sentry) take(eventfd int32) {
	var count [8]byte
	syscall.RawSyscall6(unix.SYS_READ, uintptr(eventfd), uintptr(unsafe.Pointer(&count)), uintptr(len(count)), 0, 0, 0)
}

// clock is CLOCK_MONOTONIC, in nanoseconds.
//
//go:nosplit
//go:norace
func clock() int64 {
	var now unix.Timespec
	syscall.RawSyscall6(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0, 0, 0, 0)
	return now.Nano()
}
