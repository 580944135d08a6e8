package history

import (
	"bytes"
	"slices"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

// serves is a run that served for a minute: calls before, while serving, and after it was told to end.
func serves(n int, start, serving, stopping []string) workload.Observation {
	o := observe(redis, n, 100<<20, slices.Concat(start, serving, stopping)...)
	o.Served, o.Stopped = 60, true
	o.Serving, o.Stopping = map[string]uint64{}, map[string]uint64{}
	for _, name := range serving {
		o.Serving[name] = 1
	}
	for _, name := range stopping {
		o.Stopping[name] = 1
	}
	return o
}

func TestPhases(t *testing.T) {
	limit := seal{unseen: 0.2, runs: 4, served: 5}
	m := newModel(0.99, 1000)
	m.served = 60
	phases := func(m *model) *workload.Phases { return m.predict(redis.Query(), 0.99, limit).Phases }
	end(m, observe(redis, 0, 100<<20, "execve"))
	if p := phases(m); p != nil {
		t.Fatalf("none has served: %+v", p)
	}
	for n := range 5 {
		if p := phases(m); p != nil && p.Known {
			t.Errorf("known after %d runs: %+v", n, p)
		}
		end(m, serves(n+1, []string{"execve", "setuid", "chown"}, []string{"connect"}, []string{"unlink"}))
	}
	brief := serves(7, nil, []string{"setuid"}, nil)
	brief.Served = 59
	end(m, brief)
	check := func(m *model, start ...string) {
		t.Helper()
		p := phases(m)
		if p == nil || !p.Known || p.Runs != 5 || p.Stops != 5 || !slices.Equal(p.Stop, []string{"unlink"}) || !slices.Equal(p.Start, start) || !slices.Contains(p.Serving, "connect") {
			t.Errorf("%+v, start %v", p, start)
		}
	}
	start := []string{"chown", "execve", "setuid", "unlink"}
	all := m.predict(redis.Query(), 0.99, limit).Seen
	for name := range all { // what observe adds to every run
		if !slices.Contains(start, name) && name != "connect" {
			start = append(start, name)
		}
	}
	slices.Sort(start)
	check(m, start...)
	back, err := readModel(bytes.NewReader(encoded(t, m)), 0.99, 1000)
	if err != nil {
		t.Fatal(err)
	}
	check(back, start...)
	// What one that goes on does while serving is no surprise either, however briefly it has served.
	going := serves(8, nil, []string{"chown"}, nil)
	going.Final, going.Served = false, 1
	m.checkpoint(&going, going.Started)
	check(m, slices.DeleteFunc(slices.Clone(start), func(s string) bool { return s == "chown" })...)
	// Nor is what was at full speed in some run: nobody counted it there.
	native := serves(9, nil, []string{"connect"}, nil)
	native.Native, native.Served = []string{"setuid"}, 0
	end(back, native)
	check(back, slices.DeleteFunc(slices.Clone(start), func(s string) bool { return s == "setuid" })...)
	if limit.served = -1; phases(m).Known {
		t.Error("switched off, and known")
	}
}
