package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestAirbagFigures makes the table of docs/live.md: containers that grow to four times their predicted limit, each from the
// same history, while both processors are busy. `make figures-airbag` runs it: it takes both processors for an hour and a half.
func TestAirbagFigures(t *testing.T) {
	tries, _ := strconv.Atoi(os.Getenv("FOREFEND_AIRBAG_TRIES"))
	if tries <= 0 {
		t.Skip("takes both processors for long: run make figures-airbag")
	}
	for _, start := range []struct {
		name   string
		taught int // MiB that each run of its history had in use
	}{{"64MiB", 1}, {"1GiB", 640}} {
		t.Run(start.name, func(t *testing.T) {
			h := newHost(t, harness.WithImages("grower"), harness.WithConfig("sample = \"100ms\"\n[airbag]\nenabled = true\nreserve = \"64Mi\"\n"))
			h.teach(t, start.taught)
			known := h.keepHistory(t)
			for range 2 {
				keepBusy(t)
			}
			for _, rate := range []float64{100, 500, 1000} {
				t.Run(fmt.Sprintf("%gMBps", rate), func(t *testing.T) {
					var all growths
					for range tries {
						h.putHistory(t, known)
						all = append(all, h.fourfold(t, rate*1e6))
					}
					t.Logf("\n| %s | %s |", start.name, all)
				})
			}
		})
	}
}

// growth is what came of one container.
type growth struct {
	predicted, limit int64 // MiB, at first and at the end
	rate             float64
	raises           int
	slowest          time.Duration // from the look to the limit read back
	latest           time.Duration // after a look that led to a raise was due
	killed           bool
	held             string // why the limit did not follow; empty: it did
}

type growths []growth

// String is the growths' line of the table: tries, killed, predicted limit, rates reached (least and most, MB/s), raises, slowest raise, latest look,
// limit at the end in use.
func (all growths) String() string {
	var least, most float64
	var killed, held, raises int
	var slowest, latest time.Duration
	var room float64
	for i, g := range all {
		if g.killed {
			killed++
		}
		if g.held != "" {
			held++
		}
		if !g.killed {
			if least == 0 || g.rate < least {
				least = g.rate
			}
			most = max(most, g.rate)
		}
		raises += g.raises
		slowest, latest = max(slowest, g.slowest), max(latest, g.latest)
		room = max(room, float64(all[i].limit)/float64(4*g.predicted))
	}
	return fmt.Sprintf("%d | %d | %d | %d | %.0f to %.0f | %.1f | %s | %s | %.2f", len(all), killed, held, all[0].predicted, least, most,
		float64(raises)/float64(len(all)), slowest.Round(10*time.Microsecond), latest.Round(10*time.Microsecond), room)
}

// fourfold lets one container grow to four times its predicted limit.
func (h *host) fourfold(t *testing.T, perSecond float64) (g growth) {
	t.Helper()
	p := h.inflater(t)
	defer h.remove(p.id)
	g.predicted = h.limit(t, p.id, "memory") >> 20
	d := h.explain(t, p.id)
	if f, ok := d.find("memory"); !ok || f.Author != "prediction" { // the scan was late
		t.Logf("no hard limit: %q", d.Notes)
		return h.fourfold(t, perSecond)
	}
	hasten(t, int(h.task(t, p.id).Pid()))
	p.tell(t, fmt.Sprintf("%d %g", 4*g.predicted<<20, perSecond))
	if !within(2*time.Minute, func() bool { return p.done() || !p.lives() }) {
		t.Fatal("it neither grew nor ended")
	}
	if g.killed = !p.done(); !g.killed {
		g.limit = h.limit(t, p.id, "memory") >> 20
		text, err := os.ReadFile(filepath.Join(p.dir, "1.done"))
		if err != nil {
			t.Fatal(err)
		}
		var bytes, seconds float64
		if _, err := fmt.Sscan(string(text), &bytes, &seconds); err != nil {
			t.Fatal(err)
		}
		g.rate = bytes / seconds / 1e6
	}
	if !within(15*time.Second, func() bool { return len(h.said(t, p.id, "raised"))+len(h.said(t, p.id, "oom")) > 0 }) {
		t.Errorf("nothing is told of %+v: %+v", g, h.events(t, p.id))
	}
	time.Sleep(200 * time.Millisecond) // for the last of them
	for _, e := range h.events(t, p.id) {
		switch e.Kind {
		case "raised":
			took, _ := time.ParseDuration(e.Fields["took"])
			late, _ := time.ParseDuration(e.Fields["late"])
			g.raises, g.slowest, g.latest = g.raises+1, max(g.slowest, took), max(g.latest, late)
			if _, why, more := strings.Cut(e.Message, "; not more, because "); more {
				g.held = why
			}
		case "held":
			g.held = e.Message
		}
	}
	if g.killed || g.held != "" {
		t.Logf("%+v\n%+v", g, h.events(t, p.id))
	}
	return g
}

// hasten gives a process the larger part of a processor: it would share it with those that keep it busy, and not reach the rate.
func hasten(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, pid, -20); err != nil {
		t.Fatal(err)
	}
	dir, version := cgroupOf(t, pid, "cpu")
	file, most := "cpu.shares", "262144"
	if version == 2 {
		file, most = "cpu.weight", "10000"
	}
	for _, dir := range []string{dir, filepath.Dir(dir)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(most), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// keepBusy keeps one processor busy at the priority that all have.
func keepBusy(t *testing.T) {
	t.Helper()
	c := exec.Command("sh", "-c", "while :; do :; done")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
}

// keepHistory copies what Forefend has learned so far, and returns where to.
func (h *host) keepHistory(t *testing.T) string {
	t.Helper()
	h.endDaemon(t)
	dir := filepath.Join(t.TempDir(), "known")
	if err := os.CopyFS(dir, os.DirFS(h.root())); err != nil {
		t.Fatal(err)
	}
	return dir
}

// putHistory puts a copy back: no run since has been learned from.
func (h *host) putHistory(t *testing.T, known string) {
	t.Helper()
	h.endDaemon(t)
	if err := os.RemoveAll(h.root()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(h.root(), os.DirFS(known)); err != nil {
		t.Fatal(err)
	}
}

// endDaemon ends the daemon; the next container starts another.
func (h *host) endDaemon(t *testing.T) {
	t.Helper()
	eventually(t, "the daemon ends", func() bool {
		pids, err := h.Pids("forefend", "daemon")
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		return len(pids) == 0
	})
}
