package shim

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// pretend is a directory with the files of a memory cgroup. Nothing rings its bell.
type pretend struct {
	t    rapid.TB
	dir  string
	v1   bool
	need int64
}

func newPretend(t rapid.TB, dir string, v1 bool, limit, need int64) *pretend {
	p := &pretend{t: t, dir: dir, v1: v1}
	p.write("memory.stat", "anon 1\n")
	if v1 {
		p.write("cgroup.event_control", "")
		p.write("memory.pressure_level", "")
	} else {
		p.write("memory.events", "high 0\nmax 0\n")
		p.write("memory.high", "max")
	}
	p.setLimit(limit)
	p.grow(need)
	return p
}

func (p *pretend) file(v1, v2 string) string {
	if p.v1 {
		return v1
	}
	return v2
}

func (p *pretend) write(file, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, file), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// setLimit is what runc does. Limits have nine digits, 96 to 953 MiB: the airbag writes them over one another.
func (p *pretend) setLimit(n int64) {
	p.write(p.file("memory.limit_in_bytes", "memory.max"), strconv.FormatInt(n, 10))
}

func (p *pretend) grow(need int64) {
	p.need = need
	p.write(p.file("memory.usage_in_bytes", "memory.current"), strconv.FormatInt(need, 10))
}

func (p *pretend) group() cgroup.Group {
	if p.v1 {
		return cgroup.FromMap(map[string]string{"memory": p.dir})
	}
	return cgroup.FromMap(map[string]string{"": p.dir})
}

func (p *pretend) limit() int64 {
	p.t.Helper()
	m, err := p.group().Memory()
	if err != nil {
		p.t.Fatal(err)
	}
	defer m.Close()
	n, err := m.Limit()
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// high is memory.high, in MiB; 0: none.
func (p *pretend) high() int64 {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "memory.high"))
	if err != nil {
		p.t.Fatal(err)
	}
	var n int64
	if _, err := fmt.Sscan(string(text), &n); err != nil && !strings.HasPrefix(string(text), "max") {
		p.t.Fatalf("memory.high is %q", text)
	}
	return n / mib
}

// drill is a sentry that looks at a group only when it is told to, on a node with memory to spare.
type drill struct {
	*airbags
	mu sync.Mutex // of all that is the thread's
}

func newDrill(t rapid.TB, dir string, tell func(*bag, raising)) *drill {
	t.Helper()
	node := filepath.Join(dir, "meminfo")
	if err := os.WriteFile(node, []byte("MemTotal: 1 kB\nMemAvailable:   1073741824 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &drill{airbags: newAirbags(tell)}
	d.stand = func(s *sentry) {
		fd, err := unix.Open(node, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		_ = unix.Close(int(s.meminfo))
		s.meminfo = int32(fd)
		for !s.ending {
			if n, err := unix.Poll([]unix.PollFd{{Fd: s.wake, Events: unix.POLLIN}}, -1); n == 1 && err == nil {
				d.mu.Lock()
				s.obey(clock())
				d.mu.Unlock()
			}
		}
	}
	return d
}

// inflated is the airbag of one group, and what it tells.
func inflated(t testing.TB, p *pretend, table api.Airbag) (*drill, *bag, *heard) {
	t.Helper()
	h := &heard{}
	a := newDrill(t, t.TempDir(), h.tell)
	t.Cleanup(a.close)
	b, err := a.arm(nil, p.group(), &table, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	a.ring(b)
	return a, b, h
}

// ring lets the sentry look at a group after a long sleep, in which no rate was seen.
func (d *drill) ring(b *bag) {
	d.sees(b, func(s *sentry, g *guard) {
		g.seen = 1
		s.look(b.slot, g, clock())
		g.seen = 1
	})
}

// sees does something in the sentry's place, if it guards that group, and waits until all that it tells has been heard.
func (d *drill) sees(b *bag, do func(*sentry, *guard)) {
	d.airbags.mu.Lock()
	s := d.sentry
	d.airbags.mu.Unlock()
	if s == nil {
		return
	}
	d.mu.Lock()
	if g := &s.guards[b.slot]; g.live && g.id == b.id {
		do(s, g)
	}
	d.mu.Unlock()
	for s.read.Load() != s.told.Load() {
		runtime.Gosched()
	}
}

func plain() api.Airbag {
	return api.Airbag{Predicted: 200 * mib, Ceiling: 900 * mib, CeilingBy: "guardrail"}
}

func bothVersions(t *testing.T, test func(*testing.T, bool)) {
	t.Helper()
	for name, v1 := range map[string]bool{"v1": true, "v2": false} {
		t.Run(name, func(t *testing.T) { test(t, v1) })
	}
}

func TestAirbagRaises(t *testing.T) {
	bothVersions(t, func(t *testing.T, v1 bool) {
		p := newPretend(t, t.TempDir(), v1, 200*mib, 100*mib)
		a, b, h := inflated(t, p, plain())
		if a.ring(b); p.limit() != 200*mib || len(h.all()) > 0 {
			t.Errorf("limit %d MiB with room enough: %+v", p.limit()/mib, h.all())
		}
		if !v1 && p.high() != tripAt(200*mib)/mib {
			t.Errorf("memory.high is %d MiB", p.high())
		}
		p.grow(190 * mib)
		a.ring(b)
		first := p.limit()
		if first < 254*mib || first > 900*mib {
			t.Errorf("limit %d MiB", first/mib)
		}
		p.grow(50 * mib)
		if a.ring(b); p.limit() != first {
			t.Errorf("lowered to %d MiB", p.limit()/mib)
		}
		p.grow(880 * mib)
		if a.ring(b); p.limit() != 900*mib {
			t.Errorf("limit %d MiB, the ceiling is 900", p.limit()/mib)
		}
		p.grow(900 * mib)
		a.ring(b)
		all := h.all()
		if n := len(all); n < 2 || all[0].from != 200*mib || all[0].to != first || all[0].need != 190*mib || all[0].held != "" || all[n-1].to != 900*mib ||
			!strings.Contains(all[n-1].held, "the ceiling is 900 MiB (guardrail)") {
			t.Errorf("told %+v", all)
		}
		if !v1 && p.high() != 0 {
			t.Errorf("at the ceiling memory.high is %d MiB, and holds it where others are killed", p.high())
		}
		a.disarm(nil)
		p.setLimit(200 * mib)
		if a.ring(b); p.limit() != 200*mib {
			t.Errorf("disarmed, and raised to %d MiB", p.limit()/mib)
		}
	})
}

// While somebody else moves limits v2 raises nothing, for a limit written below what is in use by then would kill; v1's kernel
// refuses that, and growth does not wait for anybody. Either way fit ends with room enough.
func TestAirbagWhileOthersChangeLimits(t *testing.T) {
	bothVersions(t, func(t *testing.T, v1 bool) {
		p := newPretend(t, t.TempDir(), v1, 200*mib, 100*mib)
		a, b, h := inflated(t, p, plain())
		table := plain()
		a.change(b)
		p.grow(190 * mib)
		a.ring(b)
		if raised := p.limit() > 200*mib; raised != v1 {
			t.Fatalf("limit %d MiB while it was changed", p.limit()/mib)
		}
		p.setLimit(210 * mib) // by who did not know
		a.fit(b, &table, math.MaxInt64)
		a.ring(b)
		if is := p.limit(); is < 254*mib || short(is, p.need, 0) {
			t.Errorf("limit %d MiB after the change, with %d in use", is/mib, p.need/mib)
		}
		if all := h.all(); len(all) == 0 || all[len(all)-1].to != p.limit() {
			t.Errorf("told %+v", all)
		}

		// Nothing was raised meanwhile: what the others did stands, up or down.
		p.grow(60 * mib)
		before := len(h.all())
		for _, others := range []int64{150 * mib, 400 * mib} {
			a.change(b)
			a.ring(b)
			p.setLimit(others)
			a.fit(b, &table, 300*mib)
			a.ring(b)
			if is := p.limit(); is != others || len(h.all()) != before {
				t.Errorf("the limit was set to %d MiB and is %d: %+v", others/mib, is/mib, h.all()[before:])
			}
			if want := min(300, tripAt(others)/mib); !v1 && p.high() != want {
				t.Errorf("memory.high is %d MiB, want %d", p.high(), want)
			}
		}
	})
}

// A limit that is to be kept is put back at once where others write what they know of it, and is looked at often until the change is over;
// what they raise stands.
func TestAirbagKeepsWhatOthersDoNotKnow(t *testing.T) {
	bothVersions(t, func(t *testing.T, v1 bool) {
		p := newPretend(t, t.TempDir(), v1, 200*mib, 190*mib)
		a, b, h := inflated(t, p, plain())
		raised := p.limit()
		if raised <= 210*mib {
			t.Fatalf("raised to %d MiB only", raised/mib)
		}
		a.change(b)
		a.keep(b)
		p.setLimit(200 * mib) // runc writes what it was told before that raise
		a.sees(b, func(s *sentry, g *guard) {
			now := clock()
			s.look(b.slot, g, now)
			if g.next-now > keepLook {
				t.Errorf("the next look is %d ms later", (g.next-now)/millisecond)
			}
		})
		if is := p.limit(); is < raised {
			t.Errorf("%d MiB, and not %d, while others change something", is/mib, raised/mib)
		}
		p.setLimit(200 * mib)
		table := plain()
		a.fit(b, &table, math.MaxInt64)
		if is := p.limit(); is < raised {
			t.Errorf("%d MiB, and not %d, once others have changed something", is/mib, raised/mib)
		}
		n := len(h.all())
		a.change(b)
		a.keep(b)
		p.setLimit(600 * mib)
		a.ring(b)
		a.fit(b, &table, math.MaxInt64)
		a.ring(b)
		if p.limit() != 600*mib || len(h.all()) != n {
			t.Errorf("%d MiB where others have set 600: %+v", p.limit()/mib, h.all()[n:])
		}
		a.change(b)
		p.setLimit(500 * mib)
		a.ring(b)
		a.fit(b, &table, math.MaxInt64)
		if p.limit() != 500*mib {
			t.Errorf("%d MiB where others have lowered it to 500, in another change", p.limit()/mib)
		}
	})
}

func TestAirbagFollowsTheDecision(t *testing.T) {
	bothVersions(t, func(t *testing.T, v1 bool) {
		p := newPretend(t, t.TempDir(), v1, 200*mib, 190*mib)
		table := plain()
		table.Held = "the risk is high"
		a, b, h := inflated(t, p, table)
		a.ring(b)
		a.ring(b)
		if all := h.all(); p.limit() != 200*mib || len(all) != 1 || all[0].held != table.Held || all[0].from != all[0].to {
			t.Fatalf("limit %d MiB, told %+v", p.limit()/mib, all)
		}
		p.grow(50 * mib)
		a.ring(b)
		p.grow(195 * mib)
		if a.ring(b); len(h.all()) != 2 {
			t.Errorf("held again, and told %+v", h.all())
		}
		calm := plain()
		calm.Growth, calm.GrowthBy = 1.5, "a sink"
		a.change(b)
		a.fit(b, &calm, math.MaxInt64)
		a.ring(b)
		if p.limit() != 259*mib {
			t.Errorf("limit %d MiB once growth is no anomaly", p.limit()/mib)
		}
		p.grow(290 * mib)
		if a.ring(b); p.limit() != 300*mib {
			t.Errorf("limit %d MiB, more than half as much again is an anomaly", p.limit()/mib)
		}
		if all := h.all(); !strings.Contains(all[len(all)-1].held, "beyond 1.5 times the predicted 200 MiB growth is anomalous: a sink") {
			t.Errorf("told %+v", all)
		}

		end := plain()
		end.Ceiling = 310 * mib
		a.change(b)
		a.fit(b, &end, math.MaxInt64)
		p.grow(305 * mib)
		if a.ring(b); p.limit() != 310*mib {
			t.Errorf("limit %d MiB at a ceiling of 310", p.limit()/mib)
		}
		higher := plain()
		a.change(b)
		a.fit(b, &higher, math.MaxInt64)
		if a.ring(b); p.limit() != 382*mib {
			t.Errorf("limit %d MiB once the ceiling is higher", p.limit()/mib)
		}
	})
}

// A limit that can no longer be watched must not stay where nobody raises it.
func TestAirbagThatIsLost(t *testing.T) {
	bothVersions(t, func(t *testing.T, v1 bool) {
		p := newPretend(t, t.TempDir(), v1, 200*mib, 100*mib)
		a, b, h := inflated(t, p, plain())
		a.sees(b, func(s *sentry, g *guard) { s.lose(b.slot, g, unix.EIO) })
		if all := h.all(); p.limit() != 900*mib || len(all) != 1 || all[0].broken == nil || all[0].from != 200*mib || all[0].to != 900*mib {
			t.Errorf("limit %d MiB, told %+v", p.limit()/mib, all)
		}
		if !v1 && p.high() != 0 {
			t.Errorf("memory.high is %d MiB", p.high())
		}
	})
}

func TestAirbagOfAGroupThatIsGone(t *testing.T) {
	p := newPretend(t, t.TempDir(), false, 200*mib, 100*mib)
	a, b, h := inflated(t, p, plain())
	a.sees(b, func(s *sentry, g *guard) { s.lose(b.slot, g, unix.ENODEV) }) // what the kernel says of it
	if a.bags[b.slot] != nil {
		t.Error("still watched")
	}
	table := plain()
	a.fit(b, &table, math.MaxInt64) // of what is not there: nothing
	a.change(b)
	a.disarm(nil)
	if err := a.release(b, math.MaxInt64); err != nil {
		t.Error(err)
	}
	if a.ring(b); len(h.all()) > 0 || p.limit() != 200*mib {
		t.Errorf("limit %d MiB, told %+v", p.limit()/mib, h.all())
	}
}

// A sentry guards a certain number of groups; a place that was left is taken again.
func TestAirbagsHavePlaces(t *testing.T) {
	p := newPretend(t, t.TempDir(), true, 200*mib, 100*mib)
	a := newDrill(t, t.TempDir(), (&heard{}).tell)
	t.Cleanup(a.close)
	table := plain()
	var bags []*bag
	for range maxGuards {
		b, err := a.arm(nil, p.group(), &table, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		bags = append(bags, b)
	}
	if _, err := a.arm(nil, p.group(), &table, math.MaxInt64); err == nil || !strings.Contains(err.Error(), "128 memory limits at most") {
		t.Errorf("one more: %v", err)
	}
	if err := a.release(bags[7], math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if b, err := a.arm(nil, p.group(), &table, math.MaxInt64); err != nil || b.slot != 7 || b.id == bags[7].id {
		t.Errorf("%+v, %v", b, err)
	}
}

// What nobody hears is not told: what was done is done, and told later.
func TestAirbagThatNobodyHears(t *testing.T) {
	s := &sentry{epoll: -1, heed: -1, meminfo: -1}
	s.told.Store(maxNotices)
	if n := s.next(noticeLost, 0, &s.guards[0]); n != nil {
		t.Errorf("overwrites %+v", n)
	}
	g := &guard{live: true}
	if s.lose(0, g, unix.EIO); !g.live || g.next == 0 {
		t.Errorf("lost, and nobody knows: %+v", g)
	}
}

func TestAirbagRefusals(t *testing.T) {
	p := newPretend(t, t.TempDir(), true, math.MaxInt64, 100*mib)
	a := newAirbags((&heard{}).tell)
	table := plain()
	if _, err := a.arm(nil, p.group(), &table, math.MaxInt64); err == nil || !strings.Contains(err.Error(), "no memory limit where one was predicted") {
		t.Errorf("no limit: %v", err)
	}
	if _, err := a.arm(nil, cgroup.FromMap(nil), &table, math.MaxInt64); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no memory controller: %v", err)
	}
	a.close()
	p.setLimit(200 * mib)
	if _, err := a.arm(nil, p.group(), &table, math.MaxInt64); err == nil || !strings.Contains(err.Error(), "the shim is ending") {
		t.Errorf("after the end: %v", err)
	}
	var none *airbags
	none.disarm(nil)
}

// The rate that counts is the highest of late, and forgets.
func TestGuardMeasuresGrowth(t *testing.T) {
	b := &guard{}
	const now = 1e9
	at := func(after time.Duration, need int64, least, most float64) {
		t.Helper()
		if b.measure(need*mib, now+int64(after)); b.rate < least*mib || b.rate > most*mib {
			t.Errorf("after %v: %g MiB/s, want %g to %g", after, b.rate/mib, least, most)
		}
	}
	at(0, 100, 0, 0)
	at(100*time.Millisecond, 150, 500, 500)
	at(110*time.Millisecond, 150, 470, 490)
	at(200*time.Millisecond, 140, 250, 350) // it shrinks: what was seen counts a while
	if b.grew != now+int64(100*time.Millisecond) {
		t.Errorf("grew last at %v", time.Duration(b.grew-now))
	}
	at(500*time.Millisecond, 140, 0, 0)
	at(10*time.Second, 900, 0, 0) // it slept: nobody knows how fast that was
}

// Whatever a container and others do: after a look that could do something there is room, or the limit is as high as it may be; the
// limit never falls by the airbag's doing, nor is it raised over what it may reach.
func TestAirbagLaws(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		v1 := rapid.Bool().Draw(t, "v1")
		table := plain()
		p := newPretend(t, dir, v1, table.Predicted, 50*mib)
		a := newDrill(t, dir, func(*bag, raising) {})
		defer a.close()
		b, err := a.arm(nil, p.group(), &table, math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		a.ring(b)
		changing := false
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			before := p.limit()
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				p.grow(rapid.Int64Range(1, before/mib-1).Draw(t, "need") * mib)
			case 2:
				a.change(b)
				changing = true
				if rapid.Bool().Draw(t, "others set a limit") {
					p.setLimit(rapid.Int64Range(max(100, p.need/mib+1), table.Ceiling/mib).Draw(t, "limit") * mib)
					before = p.limit()
				}
			case 3:
				table := table
				if rapid.Bool().Draw(t, "held") {
					table.Held = "the risk is high"
				}
				a.fit(b, &table, math.MaxInt64)
				changing = false
			}
			a.ring(b)
			is := p.limit()
			held := b.table.Held
			switch {
			case is < before:
				t.Fatalf("lowered from %d to %d MiB", before/mib, is/mib)
			case is > table.Ceiling:
				t.Fatalf("raised to %d MiB", is/mib)
			case changing:
			case held == "" && is < table.Ceiling && short(is, p.need, 0):
				t.Fatalf("limit %d MiB, need %d MiB, nothing changes and nothing is held", is/mib, p.need/mib)
			}
		}
	})
}
