package gate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Gates are the node's programs and maps as one process has them open.
type Gates struct {
	loaded
	mu      sync.Mutex
	open    map[uint64]*Gate // by cgroup, guarded by mu
	ring    *ebpf.Map        // events of this process's gates, nil before the first; guarded by mu
	reader  *ringbuf.Reader  // guarded by mu
	reading sync.WaitGroup
	tidying sync.WaitGroup // see later
}

// Open opens what the node has loaded, and loads it where nobody has. dir is where processes of the node leave its numbers for each
// other (docs/decisions/0055). The error wraps ebpf.ErrNotSupported where the kernel lacks something.
func Open(dir string) (*Gates, error) {
	l, err := openLoaded(dir)
	if err != nil {
		return nil, err
	}
	return &Gates{loaded: l, open: make(map[uint64]*Gate)}, nil
}

// Feeds returns the node's set of listed addresses. It is the Gates' to close.
func (g *Gates) Feeds() *Feeds { return &Feeds{g.maps.feeds} }

// Close forgets all gates and ends reading events. What was set stays in force as long as the containers' cgroups exist.
func (g *Gates) Close() error {
	g.tidying.Wait()
	g.mu.Lock()
	reader := g.reader
	g.mu.Unlock()
	var err error
	if reader != nil {
		err = reader.Close()
		g.reading.Wait()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, open := range g.open {
		_ = open.dir.Close()
	}
	clear(g.open)
	_ = g.ring.Close()
	g.free()
	return err
}

// listen makes the ring of this process, and reads it, once.
func (g *Gates) listen() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reader != nil {
		return nil
	}
	ring, err := ebpf.NewMap(ringOf("forefend_ring"))
	if err != nil {
		return fmt.Errorf("make a ring of events: %w", err)
	}
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return errors.Join(fmt.Errorf("read a ring of events: %w", err), ring.Close())
	}
	g.ring, g.reader = ring, reader
	g.reading.Go(func() { g.read(reader) })
	return nil
}

// read hands events to their gates until the reader is closed.
func (g *Gates) read(reader *ringbuf.Reader) {
	var r ringbuf.Record
	for {
		if err := reader.ReadInto(&r); err != nil {
			return // closed; there is no other error that would go away
		}
		cgroup, e, ok := parseEvent(r.RawSample)
		if !ok {
			continue
		}
		g.mu.Lock()
		open := g.open[cgroup]
		g.mu.Unlock()
		if open != nil {
			open.report(e)
		}
	}
}

// Open puts a gate into the cgroup at a directory of the v2 hierarchy; it lets everything pass until Set. report is told what the
// gate sees, from one goroutine that waits for it; nil: nobody is. The error wraps errors.ErrUnsupported where dir is no such cgroup.
//
// pid is a process of the container, by which its network namespace is found; 0: packet sockets are not restricted.
func (g *Gates) Open(dir string, pid int, report func(Event)) (_ *Gate, err error) {
	// Where the count begins is chance: of a gate that was forgotten, and of which the cgroup is still there, a set may be left.
	gate := &Gate{gates: g, pid: pid, report: report, version: rand.Uint64() >> 1}
	if gate.dir, gate.id, err = openCgroup(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("gate of cgroup %s: %w", dir, err), gate.dir.Close())
		}
	}()
	if report != nil {
		if err := g.listen(); err != nil {
			return nil, err
		}
	}
	if err := gate.attach(g.sockops, ebpf.AttachCGroupSockOps); err != nil {
		return nil, err
	}
	if err := gate.write(state{ID: gate.id}); err != nil {
		return nil, errors.Join(err, gate.detach(g.sockops, ebpf.AttachCGroupSockOps))
	}
	if report != nil {
		g.announce(gate)
	}
	return gate, nil
}

// later removes something that nothing looks at any more, without having the caller wait: from a map of maps the kernel returns after
// a grace period of RCU, which is milliseconds, and tens of them on a busy node. What fails is left to Sweep.
func (g *Gates) later(remove func() error) {
	g.tidying.Go(func() { _ = remove() })
}

// give puts a map into a map of maps, and closes it. It returns once programs find it there, long before the kernel does (see later).
func (g *Gates) give(outer *ebpf.Map, cgroup uint64, inner *ebpf.Map) error {
	put := make(chan error, 1)
	g.tidying.Go(func() {
		fd := uint32(inner.FD())
		put <- errors.Join(outer.Put(&cgroup, &fd), inner.Close())
	})
	look := time.NewTicker(giveLook)
	defer look.Stop()
	for {
		select {
		case err := <-put:
			return err
		case <-look.C:
		}
		var id uint32
		if outer.Lookup(&cgroup, &id) == nil {
			return nil
		}
	}
}

// giveLook is how often give looks whether a map is found.
const giveLook = 100 * time.Microsecond

// openCgroup opens a directory of the v2 hierarchy and returns the cgroup's number in the kernel.
func openCgroup(dir string) (*os.File, uint64, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, 0, fmt.Errorf("cgroup: %w", err)
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err = unix.Fstatfs(int(f.Fd()), &fs); err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err == nil && fs.Type != unix.CGROUP2_SUPER_MAGIC {
		err = fmt.Errorf("it is not of the v2 hierarchy: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("cgroup %s: %w", dir, err), f.Close())
	}
	return f, st.Ino, nil
}

// announce has the events of a gate come to this process. It is so when the program of its container begins, long before the kernel
// returns from it (see later): a container's start does not wait for that.
func (g *Gates) announce(gate *Gate) {
	gate.announced = make(chan struct{})
	g.mu.Lock()
	fd := uint32(g.ring.FD())
	g.open[gate.id] = gate
	g.mu.Unlock()
	g.tidying.Go(func() {
		defer close(gate.announced)
		if err := g.maps.rings.Put(&gate.id, &fd); err != nil {
			gate.deaf = fmt.Errorf("events of cgroup %d were not reported: %w", gate.id, err)
		}
	})
}

// allowMulti lets programs of groups below run beside ours; none of them can let pass what ours refuses.
const allowMulti = unix.BPF_F_ALLOW_MULTI

func (g *Gate) attach(p *ebpf.Program, at ebpf.AttachType) error {
	return link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(g.dir.Fd()), Program: p, Attach: at, Flags: allowMulti})
}

func (g *Gate) detach(p *ebpf.Program, at ebpf.AttachType) error {
	return link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(g.dir.Fd()), Program: p, Attach: at})
}
