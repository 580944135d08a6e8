package history

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

// runOf prepares a run that made these calls, each as often as its value says.
func runOf(n *names, made map[string]uint64, native ...string) seen {
	o := workload.Observation{Syscalls: made, Native: native, Started: epoch}
	return n.newRun(&o, epoch).seen
}

func once(list ...string) map[string]uint64 {
	m := make(map[string]uint64)
	for _, name := range list {
		m[name] = 1
	}
	return m
}

func TestLoners(t *testing.T) {
	n := newNames()
	var c calls
	for _, step := range []struct {
		made []string
		want int
	}{
		{[]string{"a", "b"}, 1},           // the first run is alone with all it does
		{[]string{"a", "b"}, 0},           // twice the same
		{[]string{"a", "c", "d", "e"}, 1}, // one odd run, whatever number of odd calls
		{[]string{"a", "f"}, 2},
		{[]string{"c", "d", "e"}, 1}, // the odd run is not odd any more
	} {
		c.add(runOf(&n, once(step.made...)))
		if got := c.loners(); got != step.want {
			t.Errorf("after %v: %d loners, want %d", step.made, got, step.want)
		}
	}
}

// A call that is native is not counted: its absence is no news and its one sighting no oddity.
func TestNativeCallsCountNeitherWay(t *testing.T) {
	n := newNames()
	var c calls
	c.add(runOf(&n, once("openat", "futex")))
	for range 3 {
		c.add(runOf(&n, once("openat"), "futex", "never-seen"))
	}
	if got := c.loners(); got != 0 {
		t.Errorf("%d loners", got)
	}
	if len(c.once) != 1 || !c.once[0].native() || len(n.list) != 2 {
		t.Errorf("once %v, names %v", c.once, n.list)
	}
}

func TestHotCalls(t *testing.T) {
	n := newNames()
	var c calls
	c.add(runOf(&n, map[string]uint64{"futex": 101, "openat": 100})) // in no time: at most a second's worth
	c.add(runOf(&n, once("futex", "openat")))
	if !c.many[0].hot() && !c.many[1].hot() {
		t.Error("no call is hot")
	}
	for _, k := range c.many {
		if got, want := k.hot(), n.list[k.id()] == "futex"; got != want {
			t.Errorf("%s: hot is %v", n.list[k.id()], got)
		}
	}
}

// The packed lists say what a plain map says.
func TestCallsAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := newNames()
	var c calls
	count := make(map[string]int)
	for range 300 {
		made := make(map[string]uint64)
		for range rng.IntN(30) {
			made[fmt.Sprint("call", rng.IntN(400))] = 1
		}
		for name := range made {
			count[name]++
		}
		c.add(runOf(&n, made))
	}
	got := make(map[string]int)
	for _, k := range c.many {
		got[n.list[k.id()]] = int(k.value())
	}
	for _, k := range c.once {
		got[n.list[k.id()]] = 1
	}
	if !maps.Equal(got, count) {
		t.Errorf("%v\nwant %v", got, count)
	}
	before := len(c.many) + len(c.once)
	c.amend(runOf(&n, once("call1", "news")))
	if len(c.many)+len(c.once) != before+1 || c.runs != 300 {
		t.Errorf("amending counted a run")
	}
}

func TestCountsSaturate(t *testing.T) {
	if c := newCall(7, flagHot, maxValue+5); c.value() != maxValue || c.id() != 7 || !c.hot() || c.native() {
		t.Errorf("%x", c)
	}
}

func TestNamesAreBounded(t *testing.T) {
	n := newNames()
	for i := range maxNames + 10 {
		n.id(fmt.Sprint("call", i))
	}
	if len(n.list) != maxNames || n.lost != 10 {
		t.Errorf("%d names, %d lost", len(n.list), n.lost)
	}
	if _, ok := n.id("call5"); !ok {
		t.Error("a known name is refused")
	}
}
