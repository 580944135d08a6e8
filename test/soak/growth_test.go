package soak

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figures are what must not grow: of all shims together (sums) and of the daemon.
type figures struct {
	shims                                    int
	shimMemory, shimDescriptors, shimThreads float64 // bytes of RSS; numbers
	daemonMemory, daemonDescriptors          float64
	daemonGoroutines                         float64 // 0: the metrics could not be read
}

// growth is a series of figures.
type growth struct{ series []figures }

func (g *growth) sample(f figures) { g.series = append(g.series, f) }

// allowances are how much of each figure may come on top between the first half of a soak and its end.
var allowances = []struct {
	name   string
	of     func(figures) float64
	factor float64
	slack  float64
}{
	{"memory of a shim", func(f figures) float64 { return f.shimMemory / float64(max(f.shims, 1)) }, 1.15, 2 << 20},
	{"descriptors of a shim", func(f figures) float64 { return f.shimDescriptors / float64(max(f.shims, 1)) }, 1.02, 2},
	{"threads of a shim", func(f figures) float64 { return f.shimThreads / float64(max(f.shims, 1)) }, 1.1, 3},
	{"memory of the daemon", func(f figures) float64 { return f.daemonMemory }, 1.25, 16 << 20},
	{"descriptors of the daemon", func(f figures) float64 { return f.daemonDescriptors }, 1.05, 10},
	{"goroutines of the daemon", func(f figures) float64 { return f.daemonGoroutines }, 1.1, 20},
}

// check compares the median of the samples' second quarter with that of the last.
func (g *growth) check(t *testing.T) {
	n := len(g.series)
	if n < 4 {
		t.Logf("%d samples are too few to see growth", n)
		return
	}
	for _, a := range allowances {
		early, late := median(g.series[n/4:n/2], a.of), median(g.series[n-max(1, n/4):], a.of)
		if late > early*a.factor+a.slack {
			t.Errorf("%s grew from %.0f to %.0f", a.name, early, late)
		}
	}
}

func median(list []figures, of func(figures) float64) float64 {
	values := make([]float64, 0, len(list))
	for _, f := range list {
		if v := of(f); v > 0 {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// String is the first sample and the last.
func (g growth) String() string {
	if len(g.series) == 0 {
		return "nothing measured"
	}
	first, last := g.series[0], g.series[len(g.series)-1]
	var words []string
	for _, a := range allowances {
		words = append(words, fmt.Sprintf("%s %.0f, %.0f", a.name, a.of(first), a.of(last)))
	}
	return "first and last: " + strings.Join(words, "; ")
}

func (s *soak) measure() (f figures) {
	shims := s.pids("containerd-shim-forefend-v1")
	f.shims = len(shims)
	for _, pid := range shims {
		f.shimMemory += status(pid, "VmRSS") * 1024
		f.shimThreads += status(pid, "Threads")
		f.shimDescriptors += descriptors(pid)
	}
	for _, pid := range s.pids("forefend", "daemon") {
		f.daemonMemory, f.daemonDescriptors = status(pid, "VmRSS")*1024, descriptors(pid)
	}
	f.daemonGoroutines = s.goroutines()
	return f
}

// status reads a number of /proc/PID/status; 0: it has ended.
func status(pid int, name string) float64 {
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			v, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return v
		}
	}
	return 0
}

func descriptors(pid int) float64 {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	return float64(len(entries))
}

// goroutines reads the daemon's metrics; 0: there is no daemon just now.
func (s *soak) goroutines() float64 {
	socket := filepath.Join(s.Dir, "run", "metrics.sock")
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	resp, err := client.Get("http://forefend/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			v, _ := strconv.ParseFloat(rest, 64)
			return v
		}
	}
	return 0
}

// A soak that grows is told from one that does not.
func TestGrowth(t *testing.T) {
	var flat growth
	for i := range 40 {
		flat.sample(figures{shims: 50, shimMemory: 50 * 20e6, shimDescriptors: 50 * 30, shimThreads: 500, daemonMemory: 60e6 + float64(i%3)*1e6, daemonDescriptors: 80, daemonGoroutines: 200})
	}
	flat.check(t)
	for _, a := range allowances {
		n := len(flat.series)
		early := median(flat.series[n/4:n/2], a.of)
		if late := early*a.factor + a.slack; early == 0 || late <= early {
			t.Errorf("%s: nothing would be seen", a.name)
		}
	}
	if got := median(nil, allowances[0].of); got != 0 {
		t.Errorf("median of nothing %v", got)
	}
}
