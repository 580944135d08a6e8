package cgroup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/root"
)

// childMode makes this test binary the workload of a root test.
const childMode = "FOREFEND_CGROUP_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		child(mode)
		return
	}
	os.Exit(m.Run())
}

// child waits for a byte on stdin (it is moved into its group meanwhile), does
// its work, says so, and waits for the end of stdin.
func child(mode string) {
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		os.Exit(1)
	}
	name, amount, _ := strings.Cut(mode, ":")
	n, _ := strconv.Atoi(amount)
	var held []byte
	switch name {
	case "memory":
		var err error // no memory of Go's: the race detector would take four times as much beside it
		if held, err = unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON); err != nil {
			os.Exit(1)
		}
		for i := range held {
			held[i] = byte(i) | 1
		}
	case "spike":
		spike(n)
	case "read":
		if f, err := os.Open(amount); err != nil {
			os.Exit(1)
		} else if _, err := io.Copy(struct{ io.Writer }{io.Discard}, f); err != nil {
			os.Exit(1)
		}
	case "spin":
		for begin := ownCPU(); ownCPU()-begin < time.Duration(n)*time.Millisecond; { // it has started outside of the group
		}
	}
	fmt.Println("done")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if len(held) > 0 && held[0] == 0 {
		os.Exit(1)
	}
}

func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		os.Exit(1)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func spike(n int) {
	cmd := exec.Command("dd", "if=/dev/zero", "of=/dev/null", "count=1", "bs="+strconv.Itoa(n))
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

// newGroup makes a group of its own and removes it with whatever is left in it.
func newGroup(t testing.TB) (string, Group) {
	t.Helper()
	name := fmt.Sprintf("forefend-test/%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	g, err := Named(name)
	if err != nil {
		t.Fatal(err)
	}
	if CurrentMode() == V2 {
		enableControllers(t, g.Unified)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		if g.Exists() {
			t.Errorf("%v is still there", g.Map())
		}
		for _, dir := range g.Map() {
			_ = os.Remove(filepath.Dir(dir)) // stays while another test has a group in it
		}
	})
	return name, g
}

// enableControllers does what a container's parent has done on v2.
func enableControllers(t testing.TB, dir string) {
	t.Helper()
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{filepath.Dir(parent), parent} {
		for _, c := range []string{"+memory", "+cpu", "+pids", "+io"} {
			if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte(c), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   io.Reader
}

// start runs a child in the group; it works when told to.
func start(t testing.TB, group, mode string) *process {
	t.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), childMode+"="+mode, "GOGC=off")
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
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	if err := Join(group, p.cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return p
}

// work lets the child work and returns what it said at its end.
func (p *process) work(t testing.TB) string {
	t.Helper()
	if _, err := p.stdin.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5)
	n, _ := io.ReadFull(p.out, line)
	return strings.TrimSpace(string(line[:n]))
}

// exit ends the child and waits for it.
func (p *process) exit() {
	p.stdin.Close()
	_ = p.cmd.Wait()
}

func sampler(t testing.TB, g Group) *Sampler {
	t.Helper()
	s, err := g.Sampler()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func sample(t testing.TB, s *Sampler) Sample {
	t.Helper()
	got, err := s.Sample()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// most is far above what a child here uses, also under the race detector.
const most = 512 << 20

func TestRootUsageOfAProcess(t *testing.T) {
	root.Test(t)
	name, want := newGroup(t)
	p := start(t, name, "memory:67108864")
	g, err := Of(p.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for controller, dir := range g.Map() {
		if want.Map()[controller] != dir {
			t.Errorf("Of: %q is in %s, want %s", controller, dir, want.Map()[controller])
		}
	}
	s := sampler(t, g)
	var series Series
	series.Add(sample(t, s))
	if out := p.work(t); out != "done" {
		t.Fatalf("child said %q", out)
	}
	running := sample(t, s)
	series.Add(running)
	if running.Memory < 64<<20 || running.Memory > most || running.PIDs < 2 || running.CPU <= 0 {
		t.Errorf("while 64 MiB are held: %+v", running)
	}
	p.exit()
	after := sample(t, s)
	series.Add(after)
	if after.PIDs != 0 || after.MemoryPeak < 64<<20 || after.CPU < running.CPU {
		t.Errorf("after exit: %+v", after)
	}
	u := series.Usage()
	if u.MemoryPeak < 64<<20 || u.MemoryPeak > most || u.MemoryLast < 64<<20 || u.CPUSeconds <= 0 || u.CPUPeak <= 0 || u.PIDsPeak < 2 {
		t.Errorf("usage %+v", u)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sample(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sample of a removed group: %v", err)
	}
	if err := g.Remove(); err != nil {
		t.Errorf("removing again: %v", err)
	}
}

// A spike that begins and ends between two samples is in the peak.
func TestRootSpikeBetweenSamples(t *testing.T) {
	root.Test(t)
	name, g := newGroup(t)
	p := start(t, name, "spike:50331648")
	s := sampler(t, g)
	var series Series
	before := sample(t, s)
	series.Add(before)
	if out := p.work(t); out != "done" {
		t.Fatalf("child said %q", out)
	}
	after := sample(t, s)
	series.Add(after)
	if after.Memory > 40<<20 {
		t.Fatalf("the spike is not over: %+v", after)
	}
	if u := series.Usage(); u.MemoryPeak < 48<<20 || u.MemoryPeak > most {
		t.Errorf("peak %d MiB, want about 48 and the child's own", u.MemoryPeak>>20)
	}
}

func setLimit(t testing.TB, g Group, controller, file1, value1, file2, value2 string) {
	t.Helper()
	dir, v1 := g.dir(controller)
	file, value := file2, value2
	if v1 {
		file, value = file1, value1
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRootLimitsThrottlingAndOOM(t *testing.T) {
	root.Test(t)
	name, g := newGroup(t)
	spin := start(t, name, "spin:100")
	s := sampler(t, g)
	if l, err := g.Limits(); err != nil || l != (Limits{}) {
		t.Errorf("limits of a new group: %+v, %v", l, err)
	}
	setLimit(t, g, "cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 100000")
	if out := spin.work(t); out != "done" {
		t.Fatalf("child said %q", out)
	}
	spin.exit()
	if got := sample(t, s); got.Throttled == 0 { // how long depends on what else this machine does
		t.Errorf("never throttled with a fifth of a core: %+v", got)
	}
	setLimit(t, g, "cpu", "cpu.cfs_quota_us", "250000", "cpu.max", "250000 100000")
	setLimit(t, g, "memory", "memory.limit_in_bytes", "33554432", "memory.max", "33554432")
	setLimit(t, g, "memory", "memory.soft_limit_in_bytes", "16777216", "memory.high", "16777216")
	setLimit(t, g, "pids", "pids.max", "77", "pids.max", "77")
	want := Limits{Memory: 32 << 20, MemorySoft: 16 << 20, CPUs: 2.5, PIDs: 77}
	if l, err := g.Limits(); err != nil || l != want {
		t.Errorf("limits %+v, %v; want %+v", l, err, want)
	}
	setLimit(t, g, "memory", "memory.soft_limit_in_bytes", "33554432", "memory.high", "max")
	hog := start(t, name, "memory:67108864")
	if out := hog.work(t); out != "" {
		t.Fatalf("child said %q with twice its limit", out)
	}
	hog.exit()
	if got := sample(t, s); got.OOMKills != 1 || got.LimitHits == 0 {
		t.Errorf("after an OOM kill: %+v", got)
	}
}

// A group that cannot be removed because a process is in it says so, and the
// process is left alone.
func TestRootRemoveWithAProcessInside(t *testing.T) {
	root.Test(t)
	name, g := newGroup(t)
	p := start(t, name, "wait")
	if err := g.Remove(); err == nil {
		t.Error("removed a group with a process in it")
	}
	if out := p.work(t); out != "done" {
		t.Errorf("the process did not live on: %q", out)
	}
	p.exit()
}

func TestOf(t *testing.T) {
	if _, err := Of(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cgroup of no process: %v", err)
	}
	if _, err := Of(os.Getpid()); err != nil {
		t.Errorf("own cgroup: %v", err)
	}
}

func BenchmarkSample(b *testing.B) {
	root.Test(b)
	name, g := newGroup(b)
	p := start(b, name, "memory:16777216")
	p.work(b)
	s := sampler(b, g)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sample(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeriesAdd(b *testing.B) {
	var s Series
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		s.Add(at(float64(i), float64(i)/2, int64(i)))
	}
}

func TestRootFree(t *testing.T) {
	root.Test(t)
	own, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if busy := own.Free().Map(); len(busy) != 0 {
		t.Errorf("free, with this process in it: %v", busy)
	}
	nowhere, err := At(fmt.Sprintf("/forefend-test-free-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	if free := nowhere.Free().Map(); len(free) == 0 || len(free) != len(nowhere.Map()) {
		t.Errorf("not free, though nobody made it: %v", free)
	}
}
