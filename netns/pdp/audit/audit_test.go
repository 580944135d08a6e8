package audit

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// TestClasses: whatever policy has a word for makes another class, and nothing else.
func TestClasses(t *testing.T) {
	strong := flow.Decision{Profile: flow.Profile{Encryption: flow.Strong, Rates: []flow.Rate{{Bytes: 1, Requests: 2, Scope: flow.PerUser, Rule: "b"}}},
		Matches: []flow.Match{{Rule: "b"}, {Rule: "a"}, {Rule: "b"}}, Reason: "first", RuleVersion: "12"}
	again := strong
	again.Reason, again.Epoch = "again", 9
	b := New()
	b.Note("", "web", &strong, noon)
	b.Note("", "web", &again, noon.Add(time.Second))
	want := []flow.Class{{Workload: "web", Profile: strong.Profile, Rules: []string{"a", "b"}, RuleVersion: "12", Reason: "again", Count: 2, First: noon, Last: noon.Add(time.Second)}}
	if got, dropped := b.Classes(); dropped != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %d\nwant %+v", got, dropped, want)
	}
	for _, change := range []func(d *flow.Decision){
		func(d *flow.Decision) { d.Profile.Deny = true },
		func(d *flow.Decision) { d.Profile.Dedicated = true },
		func(d *flow.Decision) { d.Profile.Encryption = flow.None },
		func(d *flow.Decision) { d.Profile.Endpoint = "eu" },
		func(d *flow.Decision) { d.Profile.QoS = "bulk" },
		func(d *flow.Decision) { d.Profile.Rates = nil },
		func(d *flow.Decision) { d.Matches = d.Matches[:1] },
		func(d *flow.Decision) { d.RuleVersion = "13" },
		func(d *flow.Decision) { d.RuleVersion = "" },
	} {
		other := strong
		change(&other)
		b.Note("", "web", &other, noon)
	}
	b.Note("", "db", &strong, noon)
	b.Note("n", "web", &strong, noon)
	got, _ := b.Classes()
	if len(got) != 12 || got[0].Workload != "db" || got[1].Count != 2 || got[11].Node != "n" {
		t.Errorf("%d classes: %+v", len(got), got)
	}
}

// TestBounds: a node that makes up workloads drops classes of its own, the ones that were not seen for longest.
func TestBounds(t *testing.T) {
	b := New()
	var d flow.Decision
	b.Note("good", "web", &d, noon)
	for i := range 3 * MaxClasses {
		b.Note("bad", fmt.Sprint(i), &d, noon.Add(time.Duration(i)))
	}
	list, dropped := b.Classes()
	kept := make(map[string]bool)
	for _, c := range list {
		kept[c.Node+"/"+c.Workload] = true
	}
	if len(list) > MaxClasses+1 || !kept["good/web"] || !kept[fmt.Sprintf("bad/%d", 3*MaxClasses-1)] || dropped+uint64(len(list)) != 3*MaxClasses+1 {
		t.Errorf("%d kept, %d dropped, the other node's: %t", len(list), dropped, kept["good/web"])
	}
	for i := range MaxNodes {
		b.Note(fmt.Sprint(i), "web", &d, noon.Add(time.Hour+time.Duration(i)))
	}
	list, _ = b.Classes()
	if nodes := len(b.nodes); nodes != MaxNodes || b.nodes["good"] != nil || b.nodes["bad"] != nil {
		t.Errorf("%d nodes, %d classes", nodes, len(list))
	}
}

func TestAtOnce(t *testing.T) {
	b := New()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 1000 {
				b.Note("", fmt.Sprint(i%10), &flow.Decision{}, noon)
			}
		})
	}
	all.Wait()
	if list, _ := b.Classes(); len(list) != 10 || list[0].Count != 400 {
		t.Errorf("%+v", list)
	}
}
