package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/seccomp"
	"forefend.dev/forefend/runtime/turn"
	"forefend.dev/forefend/runtime/workload"
)

// binary builds forefend once: `daemon --detach` starts its own executable, which a test binary is not.
var binary = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../../.cache/test/forefend")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build forefend: %w: %s", err, out)
	}
	return path, nil
})

// site is one configuration with everything that derives from it.
type site struct {
	*config.Config
	binary string
}

func newSite(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("starts daemons: run without -short")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ffd") // short: a socket's path has to fit
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("root = %q\nstate = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{cfg, path}
	t.Cleanup(func() {
		if log, err := os.ReadFile(s.Log()); err == nil && t.Failed() {
			t.Logf("the daemon's log: %s", log)
		}
		for _, pid := range s.daemons(t) {
			_ = unix.Kill(pid, unix.SIGKILL)
			s.gone(t, pid)
		}
		for _, part := range []string{daemonGroup, scanGroup} {
			if group, err := cgroup.Named((&daemon{cfg: cfg}).cgroup(part)); err == nil {
				// A daemon that was killed leaves them, empty once its last thread has ended.
				eventually(t, "the end of the cgroup of the "+part, func() bool { return group.Remove() == nil })
			}
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

// command is forefend with this configuration.
func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "FOREFEND_CONFIG=" + s.Path}
	return cmd
}

func (s *site) detach(t *testing.T) {
	t.Helper()
	if out, err := s.command("daemon", "--detach", "--ready-timeout", "60s").CombinedOutput(); err != nil {
		log, _ := os.ReadFile(s.Log())
		t.Fatalf("%v: %s\n%s", err, out, log)
	}
}

// daemons finds the daemons of this configuration by their environment.
func (s *site) daemons(t *testing.T) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(env, []byte("FOREFEND_CONFIG="+s.Path+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// daemon is the one daemon there must be.
func (s *site) daemon(t *testing.T) int {
	t.Helper()
	var pids []int
	eventually(t, "one daemon alone", func() bool { // one that found the lock taken may still be ending
		pids = s.daemons(t)
		return len(pids) == 1
	})
	return pids[0]
}

// gone waits until pid has ended. Its parent, not this test, collects it.
func (s *site) gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the end of process %d", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}

func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	deadline, tick := time.Now().Add(60*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for ; !happened(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func (s *site) client(t *testing.T) *api.Client {
	t.Helper()
	c, err := api.Dial(t.Context(), s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// life is one container from its Create to its last observation.
func life(t *testing.T, c *api.Client, name string) {
	t.Helper()
	id := workload.ID{Namespace: "test", Container: name}
	spec := specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}, Linux: &specs.Linux{}}
	spec.Linux.Seccomp = seccomp.DefaultProfile(&spec)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	facts := workload.Facts{ID: id, Run: name + "-1", Group: "test", Args: []string{"server"}, Image: workload.Image{Name: "docker.io/library/test:1"}}
	d, err := c.Admit(ctx, api.AdmitRequest{Version: api.Version, Facts: facts, Spec: spec, ListenerPath: "/run/x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Observe(ctx, api.ObserveRequest{Version: api.Version, Observations: []workload.Observation{{
		Version: workload.ObservationVersion, ID: id, Run: facts.Run, Name: "test", Keys: d.Facts.Keys(), Group: "test",
		Started: d.Time, Ended: d.Time.Add(time.Second), Final: true, Watched: true,
		Usage: workload.Usage{MemoryPeak: 1 << 20, PIDsPeak: 2, Samples: 2}, Syscalls: map[string]uint64{"execve": 1, "socket": 2},
	}}}); err != nil {
		t.Fatal(err)
	}
}

func allEvents(t *testing.T, c *api.Client) (all []api.Event) {
	t.Helper()
	for after := uint64(0); ; {
		page, err := c.Events(t.Context(), api.EventsRequest{After: after})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) == 0 {
			return all
		}
		all, after = append(all, page.Events...), page.Next
	}
}

func statusOf(t *testing.T, c *api.Client) api.Status {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestDaemonDetaches(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	pid := s.daemon(t)
	st := statusOf(t, s.client(t))
	if st.PID != pid || st.Config != s.Path || st.Root != s.Root || st.State != s.State {
		t.Errorf("%+v", st)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of process %d: %v", sid, pid, err)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("in %s: %v", cwd, err)
	}
	if info, err := os.Stat(s.Socket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	t.Logf("fresh node: RSS %.1f MiB, history loaded in %s, degraded: %q", float64(st.RSS)/(1<<20), st.Load, st.Degraded)
	if st.RSS > 60<<20 {
		t.Errorf("RSS of a fresh node is %d bytes", st.RSS)
	}
	s.detach(t) // there is one already: that is fine
	if again := s.daemon(t); again != pid {
		t.Errorf("another daemon took over: %d, then %d", pid, again)
	}
}

// Every thread of the daemon has its niceness, not only the one that asked for it, and its group has its share.
func TestDaemonPrecedes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may take precedence")
	}
	s := newSite(t)
	s.detach(t)
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.daemon(t)))
	if err != nil || len(stats) < 3 {
		t.Fatalf("threads %v, %v", stats, err)
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(text), ") ")
		if nice := strings.Fields(after)[16]; nice != fmt.Sprint(turn.Nice) {
			t.Errorf("%s: niceness %s", file, nice)
		}
	}
	group, err := cgroup.Named((&daemon{cfg: s.Config}).cgroup(daemonGroup))
	if err != nil {
		t.Fatal(err)
	}
	file, want := filepath.Join(group.Paths["cpu"], "cpu.shares"), 1024*daemonShare
	if group.Paths["cpu"] == "" {
		file, want = filepath.Join(group.Unified, "cpu.weight"), 100*daemonShare
	}
	got, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return // nobody divides the CPU here
	}
	if err != nil || strings.TrimSpace(string(got)) != fmt.Sprint(want) {
		t.Errorf("%s: %q, %v", file, got, err)
	}
}

func TestSecondDaemonSaysSo(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	out, err := s.command("daemon").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(out), errBusy.Error()) {
		t.Errorf("%v: %s", err, out)
	}
	s.daemon(t)
	if st := statusOf(t, s.client(t)); st.PID == 0 {
		t.Errorf("%+v", st)
	}
}

func TestManyDetachAtOnce(t *testing.T) {
	s := newSite(t)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if out, err := s.command("daemon", "--detach", "--ready-timeout", "120s").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
				return
			}
			c, err := api.Dial(t.Context(), s.Socket()) // whoever returned: it serves
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, err := c.Status(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	s.daemon(t)
}

// Who starts the daemon is told why it cannot serve.
func TestDetachTellsWhy(t *testing.T) {
	lockStore := func(t *testing.T, s *site) {
		if err := os.MkdirAll(s.StoreDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(s.StoreDir(), "lock"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		harm func(*testing.T, *site)
		says string
	}{
		"the store is in use": {lockStore, "the store is in use by another process"},
		"the store is a file": {func(t *testing.T, s *site) {
			if err := errors.Join(os.MkdirAll(s.Root, 0o700), os.WriteFile(s.StoreDir(), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "open the store"},
		"the socket's place is taken": {func(t *testing.T, s *site) {
			if err := os.MkdirAll(filepath.Join(s.Socket(), "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "socket of an earlier daemon"},
		"the config is wrong": {func(t *testing.T, s *site) {
			if err := os.WriteFile(s.Path, []byte("mood = \"good\"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "mood"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			test.harm(t, s)
			out, err := s.command("daemon", "--detach").CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.Contains(string(out), test.says) {
				t.Errorf("%v: %s", err, out)
			}
			eventually(t, "the daemon's end", func() bool { return len(s.daemons(t)) == 0 })
		})
	}
}

// A history that cannot be read is set aside; it keeps no node from starting containers.
func TestDaemonOverADamagedStore(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	c := s.client(t)
	for i := range 3 {
		life(t, c, fmt.Sprint("c", i))
	}
	s.stop(t)
	damaged := 0
	if err := filepath.WalkDir(s.StoreDir(), func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || !strings.HasSuffix(path, ".blk") {
			return err
		}
		damaged++
		return os.WriteFile(path, bytes.Repeat([]byte{0xff}, 4096), 0o600)
	}); err != nil || damaged == 0 {
		t.Fatalf("%d files damaged: %v", damaged, err)
	}
	s.detach(t)
	c = s.client(t)
	life(t, c, "after")
	if st := statusOf(t, c); len(st.SetAside) == 0 {
		t.Errorf("the damage is not reported: %+v", st)
	}
}

// stop ends the daemon as a service manager does.
func (s *site) stop(t *testing.T) {
	t.Helper()
	pid := s.daemon(t)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.gone(t, pid)
}

func TestDaemonStopsCleanly(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	idle := s.client(t)
	life(t, idle, "one")
	before, runs := allEvents(t, idle), statusOf(t, idle).Runs
	follower := s.client(t)
	followed := make(chan error, 1)
	go func() {
		_, err := follower.Events(t.Context(), api.EventsRequest{After: 1 << 40, Wait: time.Minute})
		followed <- err
	}()
	began := time.Now()
	s.stop(t)
	if took := time.Since(began); took > 40*time.Second { // the follower would wait for a minute
		t.Errorf("took %s with a follower and an idle shim", took)
	}
	<-followed
	if _, err := os.Lstat(s.Socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	s.detach(t)
	c := s.client(t)
	if after := allEvents(t, c); fmt.Sprint(after) != fmt.Sprint(before) || statusOf(t, c).Runs != runs {
		t.Errorf("events before\n%v\nand after\n%v; %d runs, before %d", before, after, statusOf(t, c).Runs, runs)
	}
	life(t, c, "two")
	if after := allEvents(t, c); after[len(after)-1].Seq != before[len(before)-1].Seq+2 {
		t.Errorf("numbers go on with %d after %d", after[len(after)-1].Seq, before[len(before)-1].Seq)
	}
}

// What was observed is durable before Observe returns: not even kill -9 takes it away.
func TestDaemonKilledAndRestarted(t *testing.T) {
	s := newSite(t)
	for round := range 3 {
		s.detach(t)
		c := s.client(t)
		if st := statusOf(t, c); st.Runs != 5*round {
			t.Fatalf("round %d: %d runs", round, st.Runs)
		}
		for i := range 5 {
			life(t, c, fmt.Sprintf("c%d-%d", round, i))
		}
		for i, e := range allEvents(t, c) {
			if i > 0 && e.Seq <= 1 {
				t.Errorf("round %d: event %d is numbered %d", round, i, e.Seq)
			}
		}
		pid := s.daemon(t)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.gone(t, pid)
		if _, err := os.Lstat(s.Socket()); err != nil {
			t.Errorf("nothing was left to replace: %v", err)
		}
	}
	s.detach(t)
	c := s.client(t)
	all := allEvents(t, c)
	if len(all) == 0 {
		t.Fatal("no event survived")
	}
	life(t, c, "last")
	newer := allEvents(t, c)
	if newer[len(newer)-1].Seq != all[len(all)-1].Seq+2 {
		t.Errorf("numbers go on with %d after %d", newer[len(newer)-1].Seq, all[len(all)-1].Seq)
	}
	h, err := c.History(t.Context(), api.HistoryRequest{})
	if err != nil || len(h.Workloads) != 1 || h.Workloads[0].Runs != 16 {
		t.Errorf("%+v: %v", h.Workloads, err)
	}
}

// goroutines counts those in a SIGQUIT dump.
var goroutines = regexp.MustCompile(`(?m)^goroutine \d+ `)

// 200 containers later the daemon holds no more descriptors and goroutines than after the first ones.
func TestDaemonLeaksNothing(t *testing.T) {
	s := newSite(t)
	counts := func(cycles int) (fds, routines int, rss int64) {
		s.detach(t)
		pid := s.daemon(t)
		for i := range cycles {
			c, err := api.Dial(t.Context(), s.Socket()) // each shim has a connection of its own
			if err != nil {
				t.Fatal(err)
			}
			life(t, c, fmt.Sprintf("c%d-%d", cycles, i))
			_ = c.Close()
		}
		rss = statusOf(t, s.client(t)).RSS
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Truncate(s.Log(), 0)
		if err := unix.Kill(pid, unix.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		s.gone(t, pid)
		dump, err := os.ReadFile(s.Log())
		if err != nil {
			t.Fatal(err)
		}
		return len(entries), len(goroutines.FindAll(dump, -1)), rss
	}
	fds, routines, rss := counts(10)
	fdsAfter, routinesAfter, rssAfter := counts(200)
	t.Logf("after 10 containers: %d descriptors, %d goroutines, RSS %.1f MiB; after 200: %d, %d, %.1f MiB",
		fds, routines, float64(rss)/(1<<20), fdsAfter, routinesAfter, float64(rssAfter)/(1<<20))
	if routines == 0 || fdsAfter > fds+5 || routinesAfter > routines+10 {
		t.Error("they grow")
	}
}

// A daemon that is dying still holds the lock, and its socket still takes connections: who starts one then must not take
// it for one that serves.
func TestDetachOutlivesADyingDaemon(t *testing.T) {
	s := newSite(t)
	lock, err := takeLock(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dying, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer dying.Close()
	dying.SetUnlinkOnClose(false) // a killed process removes nothing
	var died sync.WaitGroup
	died.Go(func() {
		conn, err := dying.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_ = errors.Join(conn.Close(), dying.Close(), lock.Close())
	})
	s.detach(t)
	died.Wait()
	if st := statusOf(t, s.client(t)); st.PID != s.daemon(t) {
		t.Errorf("process %d serves", st.PID)
	}
}
