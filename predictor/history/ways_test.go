package history

import (
	"fmt"
	"reflect"
	"testing"

	"forefend.dev/forefend/runtime/workload"
)

func TestWays(t *testing.T) {
	m := newModel(0.99, 1000)
	n := 0
	run := func(asked ...string) {
		o := observe(redis, n, 100<<20)
		n++
		o.Ways = make(map[string]uint64)
		for _, way := range asked {
			o.Ways[way] = 3
		}
		end(m, o)
	}
	want := func(want ...workload.LikelyWay) {
		t.Helper()
		if got := m.predict(redis.Query(), 0.99, seal{}).Ways; len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("after %d runs: %+v, want %+v", n, got, want)
		}
	}
	want()
	run() // one that asks for nothing says nothing
	want()
	run("strong", "none")
	want(workload.LikelyWay{Way: "none", Used: 1, Runs: 1}, workload.LikelyWay{Way: "strong", Used: 1, Runs: 1})
	run("strong")
	run()
	run("strong")
	want(workload.LikelyWay{Way: "strong", Used: 3, Runs: 3})
	for range waysWindow { // what it no longer does is forgotten
		run("standard")
	}
	want(workload.LikelyWay{Way: "standard", Used: waysWindow, Runs: waysWindow})
	var many []string
	for i := range workload.MaxWays {
		many = append(many, fmt.Sprint("strong dedicated=", i))
	}
	for range waysWindow {
		run(many...)
	}
	if got := m.predict(redis.Query(), 0.99, seal{}).Ways; len(got) != likelyAtOnce {
		t.Errorf("%d at once", len(got))
	}
	run("none")
	if s := m.summaries.get(redis.Query().Keys[0]); len(s.ways.list) != workload.MaxWays {
		t.Errorf("%d are kept", len(s.ways.list))
	}
}
