package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/forefend/bucket"
	"forefend.dev/forefend/cmd/forefend/central"
	"forefend.dev/forefend/cmd/forefend/foresight"
	"forefend.dev/forefend/cmd/forefend/meter"
	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/predictor/exploited"
	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/predictor/monitor"
	"forefend.dev/forefend/predictor/nodeload"
	"forefend.dev/forefend/predictor/profile"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/orchestrator/door"
	"forefend.dev/forefend/runtime/orchestrator/identity"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/turn"
)

const (
	// Among the last to be killed for memory; needs CAP_SYS_RESOURCE.
	daemonOOMScore = -900
	// History is long-lived and can be large: from this size on memory is worth
	// more than the CPU time of collecting it more often.
	daemonHeap = 96 << 20
)

// daemon is the node daemon with everything it holds open.
type daemon struct {
	cfg       *config.Config
	lock      *os.File
	listener  net.Listener
	meter     *meter.Meter
	scrapes   net.Listener // nil: nobody reads the metrics
	door      *door.Door
	store     *store.Store
	book      *history.Book
	profiles  *profile.Book
	load      *nodeload.Sampler
	monitor   *monitor.Monitor
	threats   *foresight.Threats
	gates     *nodeGates
	scans     *scans.Scans // nil: no static analysis
	exploited *exploited.Book
	journal   *journal
	identity  *identity.Resolver
	service   *orchestrator.Service
	egress    *egress         // nil: no egress policy
	rules     *bucket.Bucket  // nil: the rules are not in the store
	central   *central.Server // nil: it decides for no other node
	nodes     net.Listener    // of central
	started   time.Time
	loaded    time.Duration // how long it took to load the history
	degraded  []string
	settled   bool // in its own cgroup
}

// openDaemon takes the lock, loads the history and listens. On error all of it
// is released.
func openDaemon(ctx context.Context, cfg *config.Config, takeover bool) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, started: time.Now(), door: newDoor()}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	lock := func() (*os.File, error) { return takeLock(cfg) }
	if takeover {
		lock = func() (*os.File, error) { return takeOver(ctx, cfg, cfg.Lock()) }
	}
	if d.lock, err = lock(); err != nil {
		return nil, err
	}
	d.settle(ctx)
	d.meter = meter.New(version, d.standing)
	if err := d.openHistory(ctx); err != nil {
		return nil, err
	}
	d.loaded = time.Since(d.started)
	d.openSources(ctx)
	d.identity = identity.NewResolver(d.follower())
	recent, err := d.journal.recent(ctx)
	if err != nil {
		return nil, err
	}
	d.service = orchestrator.New(d.orchestration(), bookHistory{d.book}, d.journal, d.identity, d.sources(), recent)
	if err := d.openEgress(ctx); err != nil {
		return nil, err
	}
	if d.listener, err = listen(cfg.Socket()); err != nil {
		return nil, err
	}
	d.listenMetrics(ctx)
	return d, nil
}

// takeLock makes this the one daemon of its configuration.
func takeLock(cfg *config.Config) (*os.File, error) { return lockFile(cfg, cfg.Lock()) }

// lockFile locks a file for as long as it is open, or returns errBusy.
func lockFile(cfg *config.Config, path string) (*os.File, error) {
	for _, dir := range []string{cfg.Root, cfg.State} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("create a directory of the daemon: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	_ = f.Truncate(0) // the process id is for people
	_, _ = fmt.Fprintln(f, os.Getpid())
	return f, nil
}

// settle gives the daemon its own cgroup, priority and OOM score. What the
// kernel refuses is degraded, not fatal.
func (d *daemon) settle(ctx context.Context) {
	debug.SetMemoryLimit(daemonHeap)
	degrade := func(what string, err error) {
		if err != nil {
			d.degraded = append(d.degraded, fmt.Sprintf("%s: %v", what, err))
			log.G(ctx).WithError(err).Info("forefend daemon: " + what)
		}
	}
	if !underManager() { // else it has one already, and leaving that would lose it
		d.settled = true
		degrade("no cgroup of its own", cgroup.Join(d.cgroup(daemonGroup), os.Getpid()))
		degrade("no share of the CPU of its own", cgroup.Prefer(d.cgroup(daemonGroup), daemonShare))
	}
	degrade("no raised priority", turn.Ahead())
	degrade("no protection from the OOM killer", os.WriteFile("/proc/self/oom_score_adj", fmt.Appendf(nil, "%d", daemonOOMScore), 0))
}

func (d *daemon) cgroup(part string) string { return groupOf(d.cfg, part) }

// groupOf is the cgroup of a part of the daemon: one for each configuration, like all its paths. They are not below a common one,
// which would have to have the daemon's share of the CPU as well.
func groupOf(cfg *config.Config, part string) string {
	sum := sha256.Sum256([]byte(cfg.State))
	return "forefend-" + part + "-" + hex.EncodeToString(sum[:4])
}

func (d *daemon) orchestration() orchestrator.Config {
	return orchestrator.Config{
		Site:       d.cfg.Site,
		Privileged: d.cfg.Privileged,
		Unified:    cgroup.CurrentMode() == cgroup.V2,
		NodeMemory: nodeMemory(),
		Reserve:    d.cfg.Airbag.Reserve,
		Predict:    d.cfg.Deadlines.Predict,
		Containers: record.Dir(d.cfg.ContainersDir()),
		NotifyDir:  d.cfg.NotifyDir(),
		Sealed:     record.SealedDir(d.cfg.SealedDir()),
		SpoolDir:   d.cfg.SpoolDir(),
		Collect:    d.cfg.Collect,
		Now:        time.Now,
		Status:     d.status,
		Meter:      d.meter,
		Monitor:    d.watcher(),
		Responder:  d.responder(),
		Limiter:    d.limiter(),
	}
}

// listen replaces a socket that a killed daemon left: the lock is ours.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier daemon: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the socket root's: %w", err), l.Close())
	}
	return l, nil
}

// run serves until ctx ends.
func (d *daemon) run(ctx context.Context) error {
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(d.door), ttrpc.WithUnaryServerInterceptor(newCollector().intercept))
	if err != nil {
		return errors.Join(fmt.Errorf("build the server: %w", err), d.close())
	}
	api.Register(server, d.service)
	if d.egress != nil {
		api.RegisterDecisions(server, d.egress)
	}
	api.RegisterRules(server, d.ruleBucket())
	served, kept := make(chan error, 1), make(chan error, 1)
	go func() { served <- server.Serve(context.WithoutCancel(ctx), d.listener) }()
	background, stop := context.WithCancel(ctx)
	go func() { kept <- d.service.Run(background) }()
	var beside sync.WaitGroup
	if d.egress != nil {
		beside.Go(func() { d.egress.decider.run(background) })
	}
	if d.central != nil {
		beside.Go(func() {
			if err := d.central.Serve(background, d.nodes); err != nil {
				log.G(ctx).WithError(err).Error("forefend daemon: it decides for no other node any more")
			}
		})
	}
	beside.Go(func() { d.keepLog(background) })
	beside.Go(func() { d.keepShare(background) })
	beside.Go(func() { d.keepTunnels(background) })
	beside.Go(func() { d.watchUplinks(background) })
	d.runSources(background, &beside)
	if d.scrapes != nil {
		beside.Go(func() {
			if err := d.meter.Serve(background, d.scrapes); err != nil {
				log.G(ctx).WithError(err).Warn("forefend daemon: metrics")
			}
		})
	}
	log.G(ctx).WithField("socket", d.cfg.Socket()).WithField("load", d.loaded).Info("forefend daemon: serving")

	select {
	case err = <-served:
	case <-ctx.Done():
		tellManager(ctx, systemd.SdNotifyStopping)
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		if server.Shutdown(shutdown) != nil {
			err = server.Close()
		}
		cancel()
		<-served
	}
	stop()
	<-kept
	beside.Wait()
	return errors.Join(err, d.close())
}

func (d *daemon) status() api.Status {
	stats := d.book.Stats()
	st := api.Status{
		Version: version, PID: os.Getpid(), Started: d.started, Config: d.cfg.Path, Root: d.cfg.Root, State: d.cfg.State,
		Workloads: stats.Workloads, Runs: int(stats.Runs), SetAside: d.store.SetAside(), Load: d.loaded,
		Degraded: slices.Concat(d.degraded, d.journal.losses(), refusals(d.door.Counts()), d.ruleWarnings()),
	}
	st.RSS = residentSet()
	return st
}

// residentSet reads this process's RSS in bytes, 0 when /proc is unreadable.
func residentSet() int64 {
	body, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(body), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}

// processors is how many CPUs this node can give to one container.
func processors() float64 { return float64(runtime.NumCPU()) }
