package cache

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func decision(name string, depends ...flow.Field) flow.Decision {
	return flow.Decision{Epoch: 1, Reason: name, Depends: depends}
}

// TestExact changes each field in turn: a decision that depends on it is not found any more, one that does not is.
func TestExact(t *testing.T) {
	x := flow.Context{
		Container: "c", Namespace: "n", Workload: "w", Image: "i", Risk: 1, Protocol: flow.HTTP, Destination: netip.MustParseAddrPort("10.0.0.1:80"),
		User: "u", UserProof: flow.Claimed, Data: "d", Operation: "o", Host: "h", Method: "m", Path: "p", Service: "s", Process: &flow.Process{Executable: "e", PID: 1},
	}
	for f, change := range map[flow.Field]func(*flow.Context){
		flow.FieldContainer:   func(x *flow.Context) { x.Container = "" },
		flow.FieldNamespace:   func(x *flow.Context) { x.Namespace = "" },
		flow.FieldWorkload:    func(x *flow.Context) { x.Workload = "" },
		flow.FieldImage:       func(x *flow.Context) { x.Image = "" },
		flow.FieldRisk:        func(x *flow.Context) { x.Risk = 2 },
		flow.FieldProtocol:    func(x *flow.Context) { x.Protocol = flow.TLS },
		flow.FieldDestination: func(x *flow.Context) { x.Destination = netip.MustParseAddrPort("10.0.0.2:80") },
		flow.FieldPort:        func(x *flow.Context) { x.Destination = netip.MustParseAddrPort("10.0.0.1:81") },
		flow.FieldUser:        func(x *flow.Context) { x.User = "" },
		flow.FieldUserProof:   func(x *flow.Context) { x.UserProof = flow.Verified },
		flow.FieldData:        func(x *flow.Context) { x.Data = "" },
		flow.FieldOperation:   func(x *flow.Context) { x.Operation = "" },
		flow.FieldHost:        func(x *flow.Context) { x.Host = "" },
		flow.FieldHostProof:   func(x *flow.Context) { x.HostProof = flow.Claimed },
		flow.FieldMethod:      func(x *flow.Context) { x.Method = "" },
		flow.FieldPath:        func(x *flow.Context) { x.Path = "" },
		flow.FieldService:     func(x *flow.Context) { x.Service = "" },
		flow.FieldProcess:     func(x *flow.Context) { x.Process = nil },
	} {
		changed := x
		change(&changed)
		if reflect.DeepEqual(changed, x) {
			t.Fatalf("%s: nothing was changed", f)
		}
		dependent, independent := New(10), New(10)
		dependent.Reset(1)
		independent.Reset(1)
		dependent.Put(&x, decision("it", flow.FieldHost, f), noon)
		independent.Put(&x, decision("it"), noon)
		if dependent.Get(&x, noon) == nil {
			t.Errorf("%s: what was put in is not there", f)
		}
		if dependent.Get(&changed, noon) != nil {
			t.Errorf("%s: a decision that depends on it was found after it changed", f)
		}
		if independent.Get(&changed, noon) == nil {
			t.Errorf("%s: a decision that does not depend on it was not found", f)
		}
	}
}

// Values that follow one another must not run into each other.
func TestNoConfusion(t *testing.T) {
	c := New(10)
	c.Reset(1)
	for _, x := range []flow.Context{{Names: []string{"a", "b"}}, {Names: []string{"a"}}, {Names: []string{"ab"}}, {Host: "a", Names: []string{"b"}}, {Host: "a"}, {}} {
		if c.Get(&x, noon) != nil {
			t.Errorf("%+v is known", x)
		}
		c.Put(&x, decision("it", flow.FieldHost), noon)
		if c.Get(&x, noon) == nil {
			t.Errorf("%+v is not known", x)
		}
	}
	c.Put(&flow.Context{User: "ab", Host: "c"}, decision("it", flow.FieldUser, flow.FieldHost), noon)
	if c.Get(&flow.Context{User: "a", Host: "bc"}, noon) != nil {
		t.Error("ab, c and a, bc are the same")
	}
}

func TestEpochsAndValidity(t *testing.T) {
	c := New(10)
	c.Reset(1)
	x := flow.Context{Host: "h"}
	c.Put(&x, flow.Decision{Epoch: 2, Reason: "another epoch's"}, noon)
	if c.Get(&x, noon) != nil {
		t.Error("a decision of another epoch was kept")
	}
	d := decision("timed", flow.FieldTime)
	d.Valid = time.Second
	c.Put(&x, d, noon)
	if got := c.Get(&x, noon.Add(time.Second-1)); got == nil || got.Reason != "timed" {
		t.Errorf("%+v", got)
	}
	if c.Get(&x, noon.Add(time.Second)) != nil {
		t.Error("it is valid for longer than it says")
	}
	c.Reset(2)
	if c.Get(&x, noon) != nil || c.Epoch() != 2 {
		t.Error("a decision outlived its epoch")
	}
}

// TestBounded puts in more than there is room for. What is asked for again and again stays.
func TestBounded(t *testing.T) {
	const most = 100
	c := New(most)
	c.Reset(1)
	kept := flow.Context{Host: "kept"}
	c.Put(&kept, decision("kept", flow.FieldHost), noon)
	for i := range 10 * most {
		x := flow.Context{Host: fmt.Sprint(i), Path: fmt.Sprint(i)}
		c.Put(&x, decision("x", [][]flow.Field{{flow.FieldHost}, {flow.FieldPath}}[i%2]...), noon)
		if n := c.len(); n > most+1 {
			t.Fatalf("%d entries", n)
		}
		if c.Get(&kept, noon) == nil {
			t.Fatalf("after %d others what is asked for was forgotten", i)
		}
	}
	if c.Get(&flow.Context{Host: "0"}, noon) != nil {
		t.Error("nothing was forgotten")
	}
	all := []flow.Field{flow.FieldHost, flow.FieldPath, flow.FieldUser, flow.FieldData, flow.FieldMethod, flow.FieldService}
	for i := range 1 << len(all) {
		depends := slices.Clone(all)
		depends = slices.DeleteFunc(depends, func(f flow.Field) bool { return i>>slices.Index(all, f)&1 == 0 })
		c.Put(&kept, decision("x", depends...), noon)
		if len(c.kinds) > maxKinds {
			t.Fatalf("%d kinds", len(c.kinds))
		}
	}
}

func TestConcurrent(t *testing.T) {
	c := New(50)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 500 {
				x := flow.Context{Host: fmt.Sprint(i % 70)}
				d := decision(x.Host, flow.FieldHost)
				d.Epoch = c.Epoch()
				c.Put(&x, d, noon)
				if got := c.Get(&x, noon); got != nil && got.Reason != x.Host {
					t.Errorf("%s has the decision of %s", x.Host, got.Reason)
				}
				if i%100 == 0 {
					c.Reset(uint64(g))
				}
			}
		})
	}
	all.Wait()
}

// BenchmarkGet finds decisions that depend on a host, a user and a class of data, among those that depend on other things too.
// p50 is the median of runs of 64.
func BenchmarkGet(b *testing.B) {
	c := New(4096)
	c.Reset(1)
	contexts := make([]flow.Context, 256)
	for i := range contexts {
		contexts[i] = flow.Context{
			User: fmt.Sprintf("user-%d", i%16), Host: fmt.Sprintf("service-%d.example.com", i), Data: "confidential", UserProof: flow.Verified,
			Method: "GET", Path: fmt.Sprintf("/v1/things/%d", i), Operation: flow.Read,
		}
		depends := []flow.Field{flow.FieldHost, flow.FieldUser, flow.FieldUserProof, flow.FieldData}
		if i%8 == 7 {
			depends = append(depends, flow.FieldPath)
		}
		c.Put(&contexts[i], decision("it", depends...), noon)
	}
	b.ReportAllocs()
	const run = 64
	took := make([]time.Duration, 0, 1<<20)
	i := 0
	for b.Loop() {
		start := time.Now()
		for range run {
			if sink = c.Get(&contexts[i%len(contexts)], noon); sink == nil {
				b.Fatal("not found")
			}
			i++
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/run, "p50-ns")
}

var sink *flow.Decision

// What is kept elsewhere too is kept no longer there than here.
func TestCopy(t *testing.T) {
	c := New(10)
	c.Reset(1)
	d := decision("it", flow.FieldHost)
	d.Valid = time.Minute
	c.Put(&flow.Context{Host: "brief"}, d, noon)
	c.Put(&flow.Context{Host: "long"}, decision("it", flow.FieldHost), noon)
	if got, ok := c.Copy(&flow.Context{Host: "brief"}, noon.Add(40*time.Second)); !ok || got.Valid != 20*time.Second {
		t.Errorf("%+v, %t", got, ok)
	}
	if got, ok := c.Copy(&flow.Context{Host: "long"}, noon.Add(time.Hour)); !ok || got.Valid != 0 {
		t.Errorf("%+v, %t", got, ok)
	}
	if _, ok := c.Copy(&flow.Context{Host: "brief"}, noon.Add(time.Minute)); ok {
		t.Error("a decision was found after its time")
	}
}

// A label is what data is where nothing says it: workloads with different ones have different answers.
func TestLabels(t *testing.T) {
	c := New(10)
	c.Reset(1)
	c.Put(&flow.Context{Label: "public"}, decision("it", flow.FieldData), noon)
	if c.Get(&flow.Context{Label: "secret"}, noon) != nil || c.Get(&flow.Context{Data: "public"}, noon) != nil || c.Get(&flow.Context{Label: "public"}, noon) == nil {
		t.Error("labels are not told apart")
	}
}
