package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// How the airbag looks at a group. While nothing happens it sleeps until the group's bell rings; then it looks by the clock until
// the group has been calm for a while: marks can be set anew only slowly (see cgroup.Memory), and the clock tells how fast need grows.
const (
	fastGrowth   = 2 << 30                // bytes/s that a container may grow by before anybody has seen it
	shortestLook = time.Millisecond       // between two looks
	longestLook  = 100 * time.Millisecond // while it is awake
	calmAfter    = time.Second            // without growth it goes to sleep
	calmGrowth   = 1 << 20                // bytes that are no growth
	slowLook     = time.Second            // where the bell cannot tell all, or room may come of itself
	rateMemory   = 250 * time.Millisecond // how long a rate that was seen counts
	sparePs      = 4                      // slots of Go's scheduler beyond the processors
)

// airbags raises the predicted memory limits of one shim's containers before they are reached (docs/decisions/0057). One goroutine on a thread
// of its own does it, from the first container that has such a limit on.
type airbags struct {
	tell func(*bag, raising)                 // what happened, in order; it must not block
	free func() (available int64, err error) // memory of the node

	mu      sync.Mutex
	running bool          // guarded by mu
	closed  bool          // guarded by mu
	orders  []func()      // for the loop; guarded by mu
	epoll   int           // set before the loop starts
	wake    int           // an eventfd: there are orders
	done    chan struct{} // closed when the loop has ended
	arming  sync.WaitGroup

	bags map[int]*bag // by number; the loop's alone
	last int          // number given last; the loop's alone
}

// bag is the airbag of one container. All but who is the loop's alone.
type bag struct {
	who    *container
	number int
	memory *cgroup.Memory
	table  *api.Airbag
	soft   int64 // somebody's memory.high; math.MaxInt64: nobody's
	limit  int64 // as the kernel has it

	need  int64 // at the last look
	seen  time.Time
	rate  float64   // of need, bytes/s, recently
	high  int64     // need that growth is measured from
	grew  time.Time // when need was last above high
	next  time.Time // the next look; zero: when the bell rings
	bell  bool      // epoll waits for the bell
	stale bool      // the bell's marks are not those of limit
	arms  bool      // a goroutine makes new marks
	held  string    // why growth is held, as last told
	ended bool      // nothing will be raised any more

	changing bool // somebody else is moving limits
	raised   bool // it was raised since that began
}

// raising is what the airbag did, or could not do.
type raising struct {
	at       time.Time
	took     time.Duration // from the look to the limit read back
	from, to int64         // limits; the same: it stays
	need     int64
	rate     float64
	held     string // why it stays, or is not as high as it should be
	broken   error  // the airbag is of no use for this container any more
}

func newAirbags(tell func(*bag, raising)) *airbags {
	return &airbags{
		tell: tell, bags: make(map[int]*bag), epoll: -1, wake: -1, done: make(chan struct{}),
		free: func() (int64, error) {
			_, available, err := cgroup.NodeMemory()
			return available, err
		},
	}
}

// arm begins to watch a group whose limit is a predicted one: by the clock at first, until its bell is set. On an error
// nothing is watched.
func (a *airbags) arm(c *container, group cgroup.Group, table *api.Airbag, soft int64) (*bag, error) {
	memory, err := group.Memory()
	if err != nil {
		return nil, err
	}
	b := &bag{who: c, memory: memory, table: table, soft: soft, stale: true}
	if b.limit, err = memory.Limit(); err != nil {
		return nil, err
	}
	if b.limit == math.MaxInt64 {
		return nil, errors.New("the kernel has no memory limit where one was predicted")
	}
	if _, err := memory.State(); err != nil {
		return nil, err
	}
	if err := b.throttle(); err != nil {
		return nil, err
	}
	if err := a.start(); err != nil {
		return nil, errors.Join(err, memory.Throttle(b.soft))
	}
	a.order(func() { a.add(b) })
	return b, nil
}

// disarm ends the watch of a container; its limit stays. It returns once nobody looks at the group any more.
func (a *airbags) disarm(c *container) {
	if a == nil {
		return
	}
	a.obeyed(func() {
		for _, b := range a.bags {
			if b.who == c {
				a.drop(b)
			}
		}
	})
}

// change says that somebody else is about to move limits of the group. On v2 nothing is raised until fit: the kernel would
// kill for a limit that runc writes below what is in use by then, and holds the container at memory.high instead. v1
// refuses such a limit.
func (a *airbags) change(b *bag) {
	a.obeyed(func() { b.changing, b.raised = true, false })
}

// fit follows a decision: its table, and the limit that the kernel has now, unless it was raised since change.
func (a *airbags) fit(b *bag, table *api.Airbag, soft int64) {
	a.order(func() {
		if a.bags[b.number] != b {
			return
		}
		b.table, b.soft = table, soft
		b.changing, b.ended, b.held, b.stale = false, false, "", true
		is, err := b.memory.Limit()
		if err == nil && b.raised && is < b.limit {
			is, err = b.limit, b.memory.SetLimit(b.limit)
		}
		b.limit, b.raised = is, false
		if err = errors.Join(err, b.throttle()); err != nil {
			a.lost(b, err)
			return
		}
		b.grew, b.next = time.Now(), time.Now()
	})
}

// obeyed gives an order and waits until it has been carried out, or the loop has ended.
func (a *airbags) obeyed(do func()) {
	done := make(chan struct{})
	if !a.order(func() { do(); close(done) }) {
		return
	}
	select {
	case <-done:
	case <-a.done:
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

// throttle puts memory.high where room becomes short: on v2 it holds a fast grower until the limit is raised. At
// the end of all raising it is not needed: the kernel does what it does to anybody.
func (b *bag) throttle() error {
	if b.ended {
		return b.memory.Throttle(b.soft)
	}
	return b.memory.Throttle(min(b.soft, max(limitStep, tripAt(b.limit))))
}

// start runs the loop if it does not run yet.
func (a *airbags) start() (err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errors.New("the shim is ending")
	}
	if a.running {
		return nil
	}
	defer func() {
		if err != nil {
			a.closeFiles()
		}
	}()
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("airbag: %w", err)
	}
	if a.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("airbag: %w", err)
	}
	if err = unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, a.wake, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		return fmt.Errorf("airbag: %w", err)
	}
	a.running = true
	spareProcessors()
	go a.loop()
	return nil
}

func (a *airbags) closeFiles() {
	for _, fd := range []*int{&a.epoll, &a.wake} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
		}
		*fd = -1
	}
}

// close ends the loop.
func (a *airbags) close() {
	a.mu.Lock()
	was := a.closed
	a.closed = true
	running := a.running
	if running && !was {
		a.ringLocked()
	}
	a.mu.Unlock()
	if running {
		<-a.done
	}
	a.arming.Wait()
}

// order lets the loop do something; false: there is no loop.
func (a *airbags) order(do func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.running || a.closed {
		return false
	}
	a.orders = append(a.orders, do)
	a.ringLocked()
	return true
}

func (a *airbags) ringLocked() {
	one := [8]byte{1}
	_, _ = unix.Write(a.wake, one[:]) // full: it rings already
}

// loop is the airbag of all containers. It allocates next to nothing and asks nobody.
func (a *airbags) loop() {
	runtime.LockOSThread() // never unlocked: the thread's priority ends with it
	hurry()
	defer func() {
		for _, b := range a.bags {
			b.memory.Close()
		}
		a.mu.Lock()
		a.running = false
		a.closeFiles()
		a.mu.Unlock()
		close(a.done)
	}()
	var events [16]unix.EpollEvent
	for {
		n, err := unix.EpollWait(a.epoll, events[:], a.timeout())
		if err != nil && !errors.Is(err, unix.EINTR) {
			n = 0
			time.Sleep(longestLook) // cannot be; if it were, the clock still counts
		}
		now := time.Now()
		for _, e := range events[:max(n, 0)] {
			if b := a.bags[int(e.Pad)]; b != nil { // Pad 0 is wake
				b.bell, b.next, b.grew = false, now, now
			}
		}
		if !a.obey() {
			return
		}
		for _, b := range a.bags {
			if !b.next.IsZero() && !now.Before(b.next) {
				a.look(b)
			}
		}
	}
}

// spareProcessors lets more goroutines run than there are processors. The loop's thread is woken at once, but goes on only with a
// slot of Go's scheduler, and where both processors are busy an ordinary thread of the shim can hold one for long while it does
// not run itself. That is the likely cause, not a proven one, of a kill that was seen with as many slots as processors
// (docs/live.md).
func spareProcessors() {
	if n := runtime.NumCPU() + sparePs; n > runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(n)
	}
}

// hurry lets the thread run before all others of its kind: where both processors are busy, an ordinary thread would
// wait for milliseconds in which a container grows by as many megabytes. Where nothing of it is allowed, it runs as others do.
func hurry() {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
	if unix.SchedSetAttr(0, &attr, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	}
}

// timeout is how long nobody has to be looked at, in milliseconds for epoll.
func (a *airbags) timeout() int {
	var first time.Time
	for _, b := range a.bags {
		if !b.next.IsZero() && (first.IsZero() || b.next.Before(first)) {
			first = b.next
		}
	}
	if first.IsZero() {
		return -1
	}
	return int(max(0, time.Until(first)+time.Millisecond-1) / time.Millisecond)
}

// obey carries out the orders; false: end.
func (a *airbags) obey() bool {
	a.mu.Lock()
	orders, closed := a.orders, a.closed
	a.orders = nil
	a.mu.Unlock()
	if len(orders) > 0 || closed {
		var count [8]byte
		_, _ = unix.Read(a.wake, count[:])
	}
	for _, do := range orders {
		do()
	}
	return !closed
}

func (a *airbags) add(b *bag) {
	a.last++
	b.number = a.last
	a.bags[b.number] = b
	b.next = time.Now()
}

func (a *airbags) drop(b *bag) {
	if a.bags[b.number] != b {
		return
	}
	delete(a.bags, b.number)
	b.memory.Close() // epoll forgets it
}

// listen changes what epoll waits for at the bell.
func (a *airbags) listen(b *bag, op int, events uint32) {
	fd, _ := b.memory.Bell()
	if fd < 0 {
		return
	}
	_ = unix.EpollCtl(a.epoll, op, fd, &unix.EpollEvent{Events: events, Pad: int32(b.number)}) // a bell that does not ring is what slowLook is for
}

// look reads what a group needs, raises its limit where room is short, and says when to look again.
func (a *airbags) look(b *bag) {
	began := time.Now()
	state, err := b.memory.State()
	if err != nil {
		a.lost(b, err)
		return
	}
	b.measure(state.Need, time.Now()) // not began: what was taken while the thread did not run would count as taken at once
	switch {
	case b.ended || b.changing && b.memory.Unified():
	case short(b.limit, b.need, b.rate):
		a.raise(b, began)
	default:
		b.held = ""
	}
	a.rest(b, state, began)
}

// measure notes what is needed, and how fast that grows.
func (b *bag) measure(need int64, now time.Time) {
	d := now.Sub(b.seen)
	switch {
	case b.seen.IsZero():
		b.high = need
	case d > calmAfter:
		b.rate = 0 // since it slept: a mean that says nothing of now
	default:
		seen := float64(need-b.need) / max(d, shortestLook/2).Seconds()
		b.rate = max(0, seen, b.rate*(1-d.Seconds()/rateMemory.Seconds()))
	}
	b.need, b.seen = need, now
	if need > b.high+calmGrowth || need < b.high-calmGrowth {
		if need > b.high {
			b.grew = now
		}
		b.high = need
	}
}

// raise moves the limit as judge says, and tells.
func (a *airbags) raise(b *bag, began time.Time) {
	if b.changing { // somebody else may just have moved it
		if is, err := b.memory.Limit(); err == nil {
			b.limit = is
		}
	}
	r := judge(b.table, b.limit, b.need, b.rate, a.free)
	n := raising{at: began, from: b.limit, to: b.limit, need: b.need, rate: b.rate, held: r.held}
	if r.to > 0 {
		if err := b.memory.SetLimit(r.to); err != nil {
			r.held = err.Error()
		} else {
			b.limit, b.stale, b.raised, n.to = r.to, true, true, r.to
		}
	}
	b.ended = r.last && r.held != "" && b.limit >= b.table.Ceiling
	if n.to != n.from || b.ended {
		if err := b.throttle(); err != nil {
			r.held = err.Error()
		}
	}
	n.took = time.Since(began)
	n.held = r.held
	if n.to != n.from || r.held != "" && r.held != b.held {
		b.held = r.held
		a.tell(b, n)
	}
}

// rest says when to look next: by the clock while there may be growth, else when the bell rings.
func (a *airbags) rest(b *bag, state cgroup.MemoryState, now time.Time) {
	if b.ended && !b.stale {
		b.next = time.Time{}
		return
	}
	calm := now.Sub(b.grew) >= calmAfter
	if calm && b.stale {
		a.rearm(b)
	}
	if !calm || b.stale {
		room := float64(max(0, b.limit-b.need))
		wait := time.Duration(room / 4 / max(b.rate, fastGrowth) * float64(time.Second))
		if b.held != "" {
			wait = longestLook / 4
		}
		b.next = now.Add(min(max(wait, shortestLook), longestLook))
		return
	}
	if !b.bell {
		b.memory.Hush()
		_, events := b.memory.Bell()
		a.listen(b, unix.EPOLL_CTL_MOD, events|unix.EPOLLONESHOT)
		b.bell = true
		b.next = now // what happened before the bell was on
		return
	}
	b.next = time.Time{}
	if b.held != "" || state.Usage >= tripAt(b.limit) {
		b.next = now.Add(slowLook)
	}
}

// rearm lets another goroutine make the marks of the present limit. v2 has none: memory.high is its one mark.
func (a *airbags) rearm(b *bag) {
	if fd, _ := b.memory.Bell(); b.memory.Unified() && fd >= 0 {
		b.stale = false
		return
	}
	if b.arms {
		return
	}
	b.arms = true
	limit := b.limit
	a.arming.Go(func() {
		armed, err := b.memory.Arm(marks(limit))
		if !a.order(func() { a.rearmed(b, armed, limit, err) }) && err == nil {
			armed.Close()
		}
	})
}

func (a *airbags) rearmed(b *bag, armed cgroup.Armed, limit int64, err error) {
	b.arms = false
	switch {
	case err != nil:
		if a.bags[b.number] == b {
			a.lost(b, err)
		}
		return
	case a.bags[b.number] != b: // it has ended meanwhile
		armed.Close()
		return
	}
	before := b.memory.Adopt(armed)
	before.Close() // epoll forgets it
	b.bell, b.stale, b.next = false, limit != b.limit, time.Now()
	a.listen(b, unix.EPOLL_CTL_ADD, 0)
}

// lost ends the watch of a group that cannot be watched: it is gone, or else its limit must not stay where nobody
// raises it.
func (a *airbags) lost(b *bag, err error) {
	a.drop(b)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	n := raising{at: time.Now(), from: b.limit, to: b.limit, need: b.need, rate: b.rate, broken: err}
	if b.limit < b.table.Ceiling {
		b.ended = true
		if e := errors.Join(b.memory.SetLimit(b.table.Ceiling), b.throttle()); e != nil {
			n.broken = errors.Join(err, e)
		} else {
			b.limit, n.to = b.table.Ceiling, b.table.Ceiling
		}
	}
	a.tell(b, n)
}
