package shim

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/root"
)

// growMode makes this test binary a program that grows: "anon:SIZE:RATE", "file:PATH", "spin".
const growMode = "FOREFEND_AIRBAG_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(growMode); mode != "" {
		growChild(mode)
		return
	}
	os.Exit(m.Run())
}

// growChild waits for a byte, does its work, says so, and waits for the end of its input.
func growChild(mode string) {
	words := strings.Split(mode, ":")
	if words[0] == "spin" {
		for os.Getppid() != 1 {
			for range 100_000_000 {
			}
		}
		return
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		os.Exit(1)
	}
	var err error
	switch words[0] {
	case "anon":
		err = growAnonymous(words[1], words[2])
	case "file":
		err = growCache(words[1])
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// growAnonymous touches memory page by page, bytes and bytes per second, a quarter of a MiB at a time.
func growAnonymous(size, rate string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	perSecond, err := strconv.ParseFloat(rate, 64)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	if err := unix.Madvise(mem, unix.MADV_HUGEPAGE); err != nil { // 7 µs for a page of 4 KiB are no 1000 MB/s
		return err
	}
	runtime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil { // else those that keep the processors busy slow it down
		return err
	}
	begin := time.Now()
	for i := 0; i < n; i += 4096 {
		mem[i] = 1
		if i&(256<<10-1) == 0 && perSecond > 0 {
			if ahead := time.Duration(float64(i)/perSecond*1e9) - time.Since(begin); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
		}
	}
	fmt.Printf("%.0f ", float64(n)/time.Since(begin).Seconds()/1e6)
	return nil
}

// growCache reads a file twice.
func growCache(path string) error {
	for range 2 {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

type grower struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   io.Reader
}

func startGrower(t testing.TB, group, mode string) *grower {
	t.Helper()
	p := &grower{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), growMode+"="+mode)
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	if group != "" {
		if err := cgroup.Join(group, p.cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *grower) end() {
	p.stdin.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// grow lets the child work and returns what it said; empty: it was killed.
func (p *grower) grow(t testing.TB) string {
	t.Helper()
	if _, err := p.stdin.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, _ := io.ReadAtLeast(p.out, line, 1)
	for n > 0 && line[n-1] != '\n' {
		m, err := p.out.Read(line[n:])
		if n += m; err != nil {
			return ""
		}
	}
	return strings.TrimSpace(string(line[:n]))
}

// busy keeps every processor busy at ordinary priority.
func busy(t testing.TB) {
	for range 2 {
		startGrower(t, "", "spin")
	}
}

func airbagGroup(t testing.TB, limit int64) (string, cgroup.Group) {
	t.Helper()
	root.Test(t)
	name := fmt.Sprintf("forefend-test/%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	g, err := cgroup.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range g.Map() {
		if cgroup.CurrentMode() == cgroup.V2 {
			for _, above := range []string{filepath.Dir(filepath.Dir(dir)), filepath.Dir(dir)} {
				if err := os.MkdirAll(above, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+memory"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := g.Memory()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetLimit(limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for until := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if err := g.Remove(); err == nil || time.Now().After(until) {
				if err != nil {
					t.Error(err)
				}
				break
			}
		}
		for _, dir := range g.Map() {
			_ = os.Remove(filepath.Dir(dir)) // stays while another test has a group in it
		}
	})
	return name, g
}

// heard collects what an airbag tells.
type heard struct {
	mu   sync.Mutex
	news []raising
}

func (h *heard) tell(_ *bag, n raising) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.news = append(h.news, n)
}

func (h *heard) all() []raising {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]raising(nil), h.news...)
}

func kernelLimit(t testing.TB, g cgroup.Group) int64 {
	t.Helper()
	m, err := g.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n, err := m.Limit()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestRootAirbagFast is the figure of docs/live.md in plain groups: growth to four times the limit, both processors busy.
func TestRootAirbagFast(t *testing.T) {
	tries, _ := strconv.Atoi(os.Getenv("FOREFEND_AIRBAG_TRIES"))
	tries = max(tries, 1)
	for _, predicted := range []int64{64 << 20, 1 << 30} {
		for _, rate := range []int64{100, 500, 1000} {
			t.Run(fmt.Sprintf("%dMiB/%dMBps", predicted>>20, rate), func(t *testing.T) {
				if testing.Short() {
					t.Skip("keeps both processors busy: run without -short")
				}
				busy(t)
				for try := range tries {
					t.Run(strconv.Itoa(try), func(t *testing.T) { fastGrower(t, predicted, rate*1e6) })
				}
			})
		}
	}
}

func fastGrower(t *testing.T, predicted, rate int64) {
	name, g := airbagGroup(t, predicted)
	var h heard
	a := newAirbags(h.tell)
	defer a.close()
	table := &api.Airbag{Predicted: predicted, Ceiling: 16 << 30, CeilingBy: "test"}
	_, err := a.arm(nil, g, table, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	p := startGrower(t, name, fmt.Sprintf("anon:%d:%d", 4*predicted, rate))
	out := p.grow(t)
	if !strings.HasSuffix(out, "done") {
		t.Errorf("killed: %q", out)
	}
	all := h.all()
	var slowest time.Duration
	for _, n := range all {
		slowest = max(slowest, n.took)
	}
	limit := kernelLimit(t, g)
	m, _ := g.Memory()
	state, err := m.State()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s MB/s, %d raises, slowest %v, limit %d MiB, need %d MiB; %+v", out, len(all), slowest, limit>>20, state.Need>>20, all[max(0, len(all)-1):])
	a.disarm(nil)
	p.end()
}

// TestRootAirbagAgainstOldLimits: while a container grows, another process writes the limit that was in force before, again and again, as runc
// does that has been told of it and takes long. Containers that grew from 1 GiB at 100 MB/s were killed at such a limit (docs/live.md).
func TestRootAirbagAgainstOldLimits(t *testing.T) {
	const predicted = 64 * mib
	name, g := airbagGroup(t, predicted)
	other, err := g.Memory()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var h heard
	a := newAirbags(h.tell)
	defer a.close()
	table := &api.Airbag{Predicted: predicted, Ceiling: 16 << 30, CeilingBy: "test"}
	b, err := a.arm(nil, g, table, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var work sync.WaitGroup
	written := 0
	work.Go(func() {
		for {
			old := kernelLimit(t, g)
			a.change(b)
			a.keep(b)
			for until := time.Now().Add(300 * time.Millisecond); kernelLimit(t, g) == old && time.Now().Before(until); {
				time.Sleep(time.Millisecond)
			}
			if state, err := other.State(); err == nil && old > state.Need+4*mib && kernelLimit(t, g) > old && other.SetLimit(old) == nil {
				written++
			}
			time.Sleep(500 * time.Millisecond) // until it has ended
			a.fit(b, table, math.MaxInt64)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	out := startGrower(t, name, fmt.Sprintf("anon:%d:%d", 12*predicted, 100*mib)).grow(t)
	close(stop)
	work.Wait()
	if !strings.HasSuffix(out, "done") {
		t.Errorf("killed: %q", out)
	}
	if !other.Unified() && written == 0 {
		t.Error("no old limit was written over a raised one: this shows nothing")
	}
	t.Logf("%s, %d raises, %d old limits", out, len(h.all()), written)
}

// TestRootAirbagOfAStarvedShim lets a container have nearly all of both processors, so that the shim's own threads hardly run while they
// have much to do: the sentry is not held up by what they hold in Go's runtime. Its looks were 51 to 140 ms late before it stood apart. A
// virtual machine that is itself held up may make one of three late.
func TestRootAirbagOfAStarvedShim(t *testing.T) {
	root.Test(t)
	if err := realTime(); errors.Is(err, unix.EPERM) {
		t.Skipf("no thread may be a real-time one here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	const most, tries = 45 * time.Millisecond, 3
	var latest []time.Duration
	for try := range tries {
		t.Run(strconv.Itoa(try), func(t *testing.T) { latest = append(latest, starved(t)) })
		if t.Failed() || latest[try] < most {
			return
		}
	}
	t.Errorf("looks were late: %v", latest)
}

// realTime reports whether a thread may have the priority that a sentry's is to have.
func realTime() error {
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		got <- unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	}()
	return <-got
}

// starved is how late the latest look was while a container grew and the shim hardly ran.
func starved(t *testing.T) time.Duration {
	name, g := airbagGroup(t, 64*mib)
	file, most := "cpu.shares", "262144"
	dir, v1 := g.Map()["cpu"], true
	if dir == "" {
		file, most, dir, v1 = "cpu.weight", "10000", g.Map()[""], false
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(most), 0o644); err != nil && v1 {
		t.Fatal(err)
	}
	for range 2 {
		startGrower(t, name, "spin")
	}
	var work sync.WaitGroup
	stop := make(chan struct{})
	defer func() { close(stop); work.Wait() }()
	for range 2 {
		work.Go(func() { litter(stop) })
	}
	var h heard
	a := newAirbags(h.tell)
	defer a.close()
	table := &api.Airbag{Predicted: 64 * mib, Ceiling: 16 << 30, CeilingBy: "test"}
	if _, err := a.arm(nil, g, table, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if out := startGrower(t, name, fmt.Sprintf("anon:%d:%d", 256*mib, 50*mib)).grow(t); !strings.HasSuffix(out, "done") {
		t.Errorf("killed: %q", out)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	latest := time.Duration(a.sentry.latest.Load())
	t.Logf("%d raises, latest look %v", len(h.all()), latest)
	return latest
}

// litter makes work for the collector of garbage, and for all that shares its locks.
func litter(stop <-chan struct{}) {
	var keep []byte
	for {
		for range 200 {
			keep = make([]byte, 16<<10)
		}
		select {
		case <-stop:
			runtime.KeepAlive(keep)
			return
		case <-time.After(time.Millisecond):
		}
	}
}
