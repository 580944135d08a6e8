package gate

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
)

// turns sends datagrams and waits for each to come back.
func turns(addr, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	b := []byte{1}
	for range n {
		if _, err = c.Write(b); err == nil {
			_, err = c.Read(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestRootFigures prints what switching takes and what a packet costs; with FOREFEND_FIGURES=1, since it takes a while.
func TestRootFigures(t *testing.T) {
	if os.Getenv("FOREFEND_FIGURES") == "" {
		t.Skip("figures: set FOREFEND_FIGURES=1")
	}
	w := newWorld(t)
	g, _ := open(t, w, w.cgroup)
	p := w.start(t, w.cgroup)
	switching(t, w, g, p)
	crossing(t, w, g, p)
}

// switching switches the network off while datagrams flow as fast as they can: how long until Set has returned, and how long after that the
// last one arrives.
func switching(t *testing.T, w *world, g *Gate, p *process) {
	arrived := make(chan time.Time, 1<<20)
	network.In(t, w.outside, func() error {
		l, err := net.ListenPacket("udp", net.JoinHostPort(outside4, "9999"))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			b := make([]byte, 16)
			for {
				if _, _, err := l.ReadFrom(b); err != nil {
					return
				}
				select {
				case arrived <- time.Now():
				default:
				}
			}
		}()
		return nil
	})
	var took, late []float64
	const times = 200
	done := make(chan error)
	go func() {
		_, err := p.Ask(t, "flood", outside4+":9999", fmt.Sprint(times*60*time.Millisecond))
		done <- err
	}()
	for range times {
		set(t, g, Rules{})
		time.Sleep(20 * time.Millisecond)
		for len(arrived) > 0 {
			<-arrived
		}
		start := time.Now()
		set(t, g, Rules{Off: true})
		acknowledged := time.Now()
		took = append(took, float64(acknowledged.Sub(start).Microseconds()))
		time.Sleep(20 * time.Millisecond)
		last := acknowledged
		for len(arrived) > 0 {
			last = <-arrived
		}
		late = append(late, float64(last.Sub(acknowledged).Microseconds()))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	set(t, g, Rules{})
	t.Logf("off: Set takes p50 %.0f, p99 %.0f us; the last datagram is read p50 %.0f, p99 %.0f us after it has returned (n %d)",
		quantile(took, 0.5), quantile(took, 0.99), quantile(late, 0.5), quantile(late, 0.99), times)
}

// TestRootFiguresOfChanges prints what the first change of containers takes, for which their network namespace is entered, and what later ones
// take: of so many that it means something with FOREFEND_FIGURES=1, else of a few, which have to be taken all the same.
func TestRootFiguresOfChanges(t *testing.T) {
	containers, times := 2, 3
	if os.Getenv("FOREFEND_FIGURES") != "" {
		containers, times = 20, 20
	}
	w := newWorld(t)
	kinds := []struct {
		name  string
		rules func(i int) Rules
	}{
		{"off", func(int) Rules { return Rules{Off: true} }},
		{"on", func(int) Rules { return Rules{} }},
		{"one blocked", func(i int) Rules { return Rules{Block: prefixes(fmt.Sprintf("203.0.113.%d/32", i))} }},
		{"another one", func(i int) Rules { return Rules{Block: prefixes(fmt.Sprintf("203.0.113.%d/32", i+100))} }},
		{"none", func(int) Rules { return Rules{} }},
	}
	first, later := make([][]float64, len(kinds)), make([][]float64, len(kinds))
	for c := range containers {
		inside, outside := network.Of(t), network.Of(t)
		if err := network.Join(network.End{In: outside, Name: "out0"}, network.End{In: inside, Name: "in0"}); err != nil {
			t.Fatal(err)
		}
		dir := newCgroup(t, fmt.Sprintf("change%d", c))
		g, err := w.gates.Open(dir, child.Start(t, inside, dir).PID, func(Event) {})
		if err != nil {
			t.Fatal(err)
		}
		for i := range times {
			for k, kind := range kinds {
				start := time.Now()
				set(t, g, kind.rules(i))
				ms := float64(time.Since(start).Microseconds())
				if i == 0 {
					first[k] = append(first[k], ms)
				} else {
					later[k] = append(later[k], ms)
				}
			}
		}
		if err := g.Frames(); err != nil {
			t.Error(err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	for k, kind := range kinds {
		t.Logf("%-12s first of a container p50 %.0f, p90 %.0f us (n %d); later p50 %.0f, p99 %.0f us (n %d)", kind.name,
			quantile(first[k], 0.5), quantile(first[k], 0.9), len(first[k]), quantile(later[k], 0.5), quantile(later[k], 0.99), len(later[k]))
	}
}

// crossing compares the round trip of a datagram under rules with that under none, in turns.
func crossing(t *testing.T, w *world, g *Gate, p *process) {
	if _, err := w.gates.Feeds().Load(many(100_000)); err != nil {
		t.Fatal(err)
	}
	var allow []string
	for i := range 200 {
		allow = append(allow, fmt.Sprintf("10.%d.0.0/16", i))
	}
	kinds := []struct {
		name  string
		rules Rules
	}{
		{"no rules", Rules{}}, {"feeds watched", Rules{Feeds: FeedsWatch}}, {"feeds block", Rules{Feeds: FeedsBlock}},
		{"closed, 200 allowed, feeds block", Rules{Closed: true, Allow: prefixes(allow...), Feeds: FeedsBlock}},
	}
	const datagrams = 5000
	took := make([][]float64, len(kinds))
	for range 20 {
		for i, k := range kinds {
			set(t, g, k.rules)
			start := time.Now()
			p.must(t, "turns", at(outside4), strconv.Itoa(datagrams))
			took[i] = append(took[i], float64(time.Since(start).Nanoseconds())/datagrams)
		}
	}
	for i, k := range kinds {
		var over []float64
		for n := range took[i] {
			over = append(over, took[i][n]-took[0][n])
		}
		t.Logf("%-34s a datagram there and back takes p50 %6.0f ns, over no rules p50 %+6.0f (n %d of %d)", k.name, quantile(took[i], 0.5), quantile(over, 0.5), len(over), datagrams)
	}
}

func quantile(all []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(all))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
