package nodeload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

const (
	meminfo = "MemTotal:       1000 kB\nMemFree:         10 kB\nMemAvailable:    250 kB\n"
	netDev  = "Inter-|   Receive   |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n" +
		"    lo: 9000 1 0 0 0 0 0 0 9000 1 0 0 0 0 0 0\n  eth0: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n veth1:  500 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0\n"
	pressure = "some avg10=56.22 avg60=25.89 avg300=15.08 total=8133271151\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n"
)

// node is a fake kernel in a directory.
type node struct{ dir string }

func newNode(t *testing.T) node {
	n := node{t.TempDir()}
	n.write(t, "proc/stat", "cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 1 2\n")
	n.write(t, "proc/meminfo", meminfo)
	n.write(t, "proc/net/dev", netDev)
	n.write(t, "proc/pressure/cpu", pressure)
	n.write(t, "sys/class/net/eth0/device", "")
	n.write(t, "sys/class/net/eth0/speed", "8\n")
	return n
}

func (n node) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n node) sampler() *Sampler {
	return New(filepath.Join(n.dir, "proc"), filepath.Join(n.dir, "sys"))
}

func near(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

func TestLoadIsTheMeanOverTheReadings(t *testing.T) {
	n := newNode(t)
	s := n.sampler()
	if _, ok := s.Load(); ok {
		t.Error("a load before the first reading")
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Sample(start); err != nil {
		t.Fatal(err)
	}
	n.write(t, "proc/stat", "cpu  190 0 100 810 0 0 0 0 50 0\ncpu0 1\ncpu1 1\n") // 90 busy of 100 ticks
	n.write(t, "proc/net/dev", strings.NewReplacer("1000", "9001000", " 2000", " 2500").Replace(netDev))
	if err := s.Sample(start.Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	l, ok := s.Load()
	if !ok || l.Cores != 2 || !near(l.CPU, 0.9) || !near(l.Memory, 0.75) || l.MemoryFree != 250<<10 || !near(l.Receive, 900000) || !near(l.Transmit, 50) ||
		!near(l.PressureCPU, 0.5622) || l.PressureMemory != -1 || l.PressureIO != -1 {
		t.Errorf("%+v", l)
	}
	for resource, word := range map[string]string{"cpu": "90 % of 2 processors", "network": "90 % of the links' 0.008 Gbit/s"} {
		if !strings.Contains(l.Tight[resource], word) {
			t.Errorf("%s: %q does not say %q", resource, l.Tight[resource], word)
		}
	}
	if len(l.Tight) != 2 {
		t.Errorf("%v", l.Tight)
	}
}

func TestAMinuteIsKept(t *testing.T) {
	n := newNode(t)
	s := n.sampler()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3 * window {
		if err := s.Sample(now.Add(time.Duration(i) * Every)); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.ring) != window || cap(s.ring) > 2*window {
		t.Errorf("%d readings in %d places", len(s.ring), cap(s.ring))
	}
	if got := s.ring[window-1].at.Sub(s.ring[0].at); got != time.Minute {
		t.Errorf("means over %v", got)
	}
	if err := s.Sample(now); err != nil { // the clock was set back
		t.Fatal(err)
	}
	if len(s.ring) != 1 {
		t.Errorf("%d readings after the clock was set", len(s.ring))
	}
}

func TestWhatIsShort(t *testing.T) {
	for name, c := range map[string]struct {
		load  evidence.Load
		speed float64
		want  string // resources, in order
	}{
		"nothing":           {evidence.Load{CPU: 0.84, Memory: 0.89, PressureCPU: -1, PressureMemory: -1, PressureIO: -1}, 0, ""},
		"queues":            {evidence.Load{CPU: 0.2, PressureCPU: 0.5}, 0, "cpu"},
		"memory used":       {evidence.Load{Memory: 0.95}, 0, "memory"},
		"memory pressed":    {evidence.Load{PressureMemory: 0.2}, 0, "memory"},
		"disks":             {evidence.Load{PressureIO: 0.5}, 0, "io"},
		"unknown speed":     {evidence.Load{Receive: 1e12}, 0, ""},
		"one way is enough": {evidence.Load{Transmit: 90}, 100, "network"},
	} {
		got := tight(c.load, c.speed)
		if c.want == "" && got != nil || c.want != "" && (len(got) != 1 || got[c.want] == "") {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	n := newNode(t)
	for file, text := range map[string]string{
		"proc/stat": "cpu  1 2\n", "proc/meminfo": "MemTotal: 5 kB\n",
	} {
		before, err := os.ReadFile(filepath.Join(n.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		n.write(t, file, text)
		if err := n.sampler().Sample(time.Now()); !errors.Is(err, errShape) {
			t.Errorf("%s: %v", file, err)
		}
		if err := os.Remove(filepath.Join(n.dir, file)); err != nil {
			t.Fatal(err)
		}
		if err := n.sampler().Sample(time.Now()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", file, err)
		}
		n.write(t, file, string(before))
	}
	for _, file := range []string{"proc/net/dev", "proc/pressure/cpu"} {
		if err := os.Remove(filepath.Join(n.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	s := n.sampler()
	if err := s.Sample(time.Now()); err != nil {
		t.Fatal(err)
	}
	if l, _ := s.Load(); l.PressureCPU != -1 || l.Receive != 0 {
		t.Errorf("%+v", l)
	}
}

func TestRunReportsOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	said := 0
	New(t.TempDir(), t.TempDir()).Run(ctx, func(error) { said++; cancel() })
	if said != 1 {
		t.Errorf("said %d times", said)
	}
}

// TestThisNode reads the real files.
func TestThisNode(t *testing.T) {
	s := New("/proc", "/sys")
	if err := s.Sample(time.Now()); err != nil {
		t.Fatal(err)
	}
	if l, ok := s.Load(); !ok || l.Cores < 1 || l.MemoryFree <= 0 || l.Memory <= 0 || l.Memory >= 1 {
		t.Errorf("%+v", l)
	}
}

func BenchmarkSample(b *testing.B) {
	s := New("/proc", "/sys")
	for b.Loop() {
		if err := s.Sample(time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("cpu  1 2 3 4 5 6 7 8\ncpu0 1\n"))
	f.Add([]byte(meminfo))
	f.Add([]byte(netDev))
	f.Add([]byte(pressure))
	f.Add([]byte("-1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := parseStat(text); err == nil && (c.busy > c.total || c.total == 0) {
			t.Errorf("%+v", c)
		}
		if total, available, err := parseMeminfo(text); err == nil && (total <= 0 || available < 0 || available > total) {
			t.Errorf("%d of %d", available, total)
		}
		if n := len(parseNetDev(text)); n > maxInterfaces {
			t.Errorf("%d interfaces", n)
		}
		if p := parsePressure(text); p != -1 && !(p >= 0 && p <= 1) {
			t.Errorf("pressure %v", p)
		}
		if s := parseSpeed(text); !(s >= 0) {
			t.Errorf("speed %v", s)
		}
	})
}
