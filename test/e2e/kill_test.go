package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestDaemonKilledInFlight ends the daemon by SIGKILL over and over while containers make calls that they may make and an operator
// changes them. No such call fails or hangs, no change is half done or forgotten, and what is said to be in force is. KILLS is for how long
// (`make kills`: 5m). Then containerd is ended between changes: revisions outlive it.
func TestDaemonKilledInFlight(t *testing.T) {
	lasting := 6 * time.Second
	if text := os.Getenv("KILLS"); text != "" {
		var err error
		if lasting, err = time.ParseDuration(text); err != nil {
			t.Fatalf("KILLS: %v", err)
		}
	}
	h := newHost(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var loads []*load
	for range 3 {
		loads = append(loads, newLoad(t, h))
	}
	var killer sync.WaitGroup
	killed, end := 0, time.Now().Add(lasting)
	killer.Go(func() { killed = h.killLoop(t, rand.New(rand.NewPCG(seed, 1)), end) })
	for time.Now().Before(end) {
		l := loads[random.IntN(len(loads))]
		l.change(random)
	}
	killer.Wait()
	if err := h.Forefend("daemon", "--detach").Check(); err != nil {
		t.Fatal(err)
	}
	done, cut := 0, 0
	for _, l := range loads {
		l.consistent()
		done, cut = done+l.done, cut+l.cut
	}
	if killed == 0 || done == 0 {
		t.Errorf("%d daemons were killed, %d changes made: nothing was shown", killed, done)
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		containerdRestarts(t, h, loads[0], signal)
	}
	calls, longest := 0, time.Duration(0)
	for _, l := range loads {
		r := l.end()
		calls, longest = calls+r.Calls, max(longest, r.Longest)
	}
	t.Logf("%s: %d daemons killed, %d changes made, %d cut off; %d calls, none failed, the longest took %s", lasting, killed, done, cut, calls, longest)
}

// killLoop kills every daemon that there is, whatever it is doing, and starts another.
func (h *host) killLoop(t *testing.T, random *rand.Rand, end time.Time) (killed int) {
	for time.Now().Before(end) {
		time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond)))) // a random moment, not a wait for something
		pids, err := h.Pids("forefend", "daemon")
		if err != nil {
			t.Error(err)
			return killed
		}
		for _, pid := range pids {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		if r := h.Forefend("daemon", "--detach"); r.Code != 0 {
			t.Errorf("no daemon starts after one was killed: %v", r.Check())
		}
	}
	return killed
}

// load is a container that makes harmless calls.
type load struct {
	*host
	t         *testing.T
	id, dir   string
	pid       int
	done, cut int // changes that were acknowledged, and that no daemon answered
}

func newLoad(t *testing.T, h *host) *load {
	dir := t.TempDir()
	l := &load{host: h, t: t, dir: dir}
	l.id = h.start(t, sh("trap 'kill -TERM $p' TERM; /probe steady /tmp > /m/result & p=$!; echo > /m/begun; wait $p; wait $p; mv /m/result /m/ended; sleep 1000",
		h.withProbe(), "--memory-limit=134217728", "--mount=type=bind,src="+dir+",dst=/m,options=rbind:rw"))
	l.pid = int(h.task(t, l.id).Pid())
	eventually(t, "the load", func() bool { _, err := os.Stat(filepath.Join(dir, "begun")); return err == nil })
	return l
}

// change changes something that the load does not need. The daemon may die at any point of it.
func (l *load) change(random *rand.Rand) {
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	args := []string{"set", l.id, pick("memory=96Mi", "memory=160Mi", "memory=192Mi"), pick("pids=100", "pids=200", "cpu.shares=512"),
		pick("syscalls/ptrace=deny", "syscalls/mknod=deny", "syscalls/mknod=watch", "readonly_paths//etc=readonly", "network=off", "network=on")}
	switch random.IntN(6) {
	case 0:
		args = []string{"reset", l.id}
	case 1:
		args = []string{"unset", l.id, pick("memory", "pids", "syscalls", "network")}
	}
	began := time.Now()
	r := l.Forefend(args...)
	if took := time.Since(began); took > 30*time.Second {
		l.t.Errorf("%s took %s", strings.Join(args, " "), took)
	}
	switch {
	case r.Code == 0:
		l.done++
	case strings.Contains(r.Stdout, "refused") || strings.Contains(r.Stdout, "failed"):
		l.t.Errorf("%s: %s%s", strings.Join(args, " "), r.Stdout, r.Stderr)
	default:
		l.cut++ // its daemon was killed, or there was none
	}
}

// consistent compares what is said to be in force with what the kernel has, and with the audit.
func (l *load) consistent() {
	l.t.Helper()
	d := l.explain(l.t, l.id)
	last := 1
	for i, c := range d.Changes {
		if i > 0 && c.Revision != last+1 {
			l.t.Errorf("revision %d comes after %d", c.Revision, last)
		}
		last = c.Revision
	}
	if last != d.Revision {
		l.t.Errorf("the last change is revision %d, in force is %d", last, d.Revision)
	}
	memory := map[string]int64{"96 MiB": 96 << 20, "160 MiB": 160 << 20, "192 MiB": 192 << 20, "128 MiB": 128 << 20}
	if f, _ := d.find("memory"); l.limit(l.t, l.id, "memory") != memory[f.Text] {
		l.t.Errorf("memory is said to be %s, the kernel has %d", f.Text, l.limit(l.t, l.id, "memory"))
	}
	f, _ := d.find("pids")
	if n, _ := strconv.ParseInt(f.Text, 10, 64); l.limit(l.t, l.id, "pids") != n {
		l.t.Errorf("pids is said to be %q, the kernel has %d", f.Text, l.limit(l.t, l.id, "pids"))
	}
	mknod, _ := d.find("syscalls/mknod")
	if r := l.exec(l.id, "/probe", "try", "call=mknod"); (r.Stdout == "call=mknod: EPERM\n") != (mknod.Text == "deny") || r.Code != 0 {
		l.t.Errorf("mknod is said to be %q, a process has %q %q", mknod.Text, r.Stdout, r.Stderr)
	}
	eventually(l.t, "an event of each revision that is remembered", func() bool {
		told := map[string]bool{}
		for _, e := range l.events(l.t, l.id) {
			told[e.Fields["revision"]] = told[e.Fields["revision"]] || e.Kind == "updated"
		}
		return !slices.ContainsFunc(d.Changes, func(c struct {
			Revision int
			Author   string
			Changed  []string
		}) bool {
			return !told[fmt.Sprint(c.Revision)]
		})
	})
}

// end has the load say what became of its calls.
func (l *load) end() (r struct {
	Calls   int
	Failed  map[string]int
	Longest time.Duration
}) {
	l.t.Helper()
	if err := l.Ctr("task", "kill", "-s", "SIGTERM", l.id).Check(); err != nil {
		l.t.Fatal(err)
	}
	var text []byte
	eventually(l.t, "what became of the calls", func() (ok bool) {
		var err error
		text, err = os.ReadFile(filepath.Join(l.dir, "ended"))
		return err == nil
	})
	if err := json.Unmarshal(text, &r); err != nil {
		l.t.Fatalf("%q: %v", text, err)
	}
	if len(r.Failed) > 0 || r.Calls == 0 || r.Longest > 10*time.Second {
		l.t.Errorf("%d calls, failed: %v, the longest took %s", r.Calls, r.Failed, r.Longest)
	}
	return r
}

// containerdRestarts ends containerd between two changes.
func containerdRestarts(t *testing.T, h *host, l *load, signal syscall.Signal) {
	t.Helper()
	h.adjust(t, "reset", l.id)
	h.adjust(t, "set", l.id, "memory=96Mi", "syscalls/mknod=deny")
	before := h.explain(t, l.id)
	if err := h.RestartContainerd(t.Context(), signal); err != nil {
		t.Fatal(err)
	}
	after := h.explain(t, l.id)
	if after.Revision != before.Revision || len(after.Changes) != len(before.Changes) {
		t.Errorf("%s of containerd: revision %d with %d changes, before %d with %d", signal, after.Revision, len(after.Changes), before.Revision, len(before.Changes))
	}
	l.consistent()
	h.adjust(t, "set", l.id, "memory=160Mi")
	h.adjust(t, "rollback", l.id, fmt.Sprint(before.Revision))
	if m := h.limit(t, l.id, "memory"); m != 96<<20 {
		t.Errorf("%s of containerd, and rolled back to before: the kernel has memory %d", signal, m)
	}
	l.consistent()
}
