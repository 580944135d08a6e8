package rewrite

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestResources(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		policy  map[string]string
		unified bool
		want    string
	}{
		"every limit again": {`null`, map[string]string{"memory": "64Mi", "memory.swap": "64Mi", "memory.soft": "32Mi", "cpus": "1", "pids": "7", "cpu.shares": "99"}, false,
			`{"memory":{"limit":67108864,"reservation":33554432,"swap":67108864},"cpu":{"shares":99,"quota":100000,"period":100000},"pids":{"limit":7}}`},
		"v2": {`{}`, map[string]string{"memory": "64Mi", "memory.soft": "32Mi"}, true,
			`{"memory":{"limit":67108864},"unified":{"memory.high":"33554432"}}`},
		"limits lifted": {`{}`, map[string]string{"memory": "max", "memory.soft": "max", "memory.swap": "max", "cpus": "max", "pids": "max", "cpu.shares": "max"}, false,
			`{"memory":{"limit":-1,"reservation":-1,"swap":-1},"cpu":{"shares":262144,"quota":-1},"pids":{"limit":-1}}`},
		"limits lifted on v2": {`{}`, map[string]string{"memory.soft": "max"}, true, `{"unified":{"memory.high":"max"}}`},
		"the rest of the request": {`{"cpu":{"cpus":"0","period":50000},"blockIO":{"weight":10},"unified":{"memory.min":"4"}}`,
			map[string]string{"cpus": "1"}, true, `{"cpu":{"quota":50000,"period":50000,"cpus":"0"},"blockIO":{"weight":10},"unified":{"memory.min":"4"}}`},
		"undecided": {`{"memory":{"limit":5,"swap":3}}`, nil, false, `{"memory":{"limit":5,"swap":3}}`},
		"soft alone": {`{"memory":{"limit":5,"swap":3}}`, map[string]string{"memory.soft": "1b"}, false,
			`{"memory":{"limit":5,"reservation":1,"swap":3}}`},
		"a contradiction is the request's": {`{"memory":{"limit":5,"swap":3}}`, map[string]string{"memory": "5b", "memory.swap": "3b", "pids": "7"}, false,
			`{"memory":{"limit":5,"swap":3},"pids":{"limit":7}}`},
		"a contradiction of others is not": {`{"memory":{"limit":5,"swap":3}}`, map[string]string{"memory": "4b", "memory.swap": "3b"}, false,
			`{"memory":{"limit":4,"swap":4}}`},
		"huge": {`{"cpu":{"period":99999999999}}`, map[string]string{"pids": "9223372036854775806"}, false,
			`{"cpu":{"period":99999999999},"pids":{"limit":9223372036854775806}}`},
		"long period": {`{"cpu":{"period":99999999999}}`, map[string]string{"cpus": "2"}, false, `{"cpu":{"quota":2000000,"period":1000000}}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := parse[specs.LinuxResources](t, c.request)
			before := text(t, r)
			got := text(t, Resources(r, decided(t, c.policy), c.unified))
			if want := text(t, parse[specs.LinuxResources](t, c.want)); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
			if text(t, r) != before {
				t.Error("the request changed")
			}
		})
	}
	if got := text(t, Resources(nil, decided(t, nil), true)); got != `{}` {
		t.Errorf("nothing at all: %s", got)
	}
}

// TestLimitsOfNothing: values no scale parses still become limits runc takes.
func TestLimitsOfNothing(t *testing.T) {
	r := new(specs.LinuxResources)
	for _, k := range knobs {
		k.write(r, -3, false)
	}
	want := `{"memory":{"limit":1,"reservation":1,"swap":1},"cpu":{"shares":2,"quota":1000,"period":1000000},"pids":{"limit":1}}`
	if got := text(t, r); got != want {
		t.Errorf("got %s", got)
	}
	writeCPUs(r, 1<<62, false)
	if got := *r.CPU.Quota; got != 1<<63-1 {
		t.Errorf("saturated quota: %d", got)
	}
}

func TestOverlay(t *testing.T) {
	for name, c := range map[string]struct{ container, update, want string }{
		"no update":    {`{"memory":{"limit":5}}`, `null`, `{"memory":{"limit":5}}`},
		"no container": {`null`, `{"pids":{"limit":5}}`, `{"pids":{"limit":5}}`},
		"zeros stay": {`{"memory":{"limit":5},"cpu":{"quota":7}}`, `{"memory":{"limit":0,"swap":9},"cpu":{"quota":0,"period":50,"shares":4}}`,
			`{"memory":{"limit":5,"swap":9},"cpu":{"shares":4,"quota":7,"period":50}}`},
		"both places": {`{"unified":{"memory.max":"3","cpu.max":"1 2","pids.max":"4","memory.min":"1"}}`,
			`{"memory":{"limit":8,"reservation":6},"cpu":{"quota":5},"pids":{"limit":-1},"unified":{"io.max":"x"}}`,
			`{"memory":{"limit":8,"reservation":6},"cpu":{"quota":5},"pids":{"limit":-1},"unified":{"io.max":"x","memory.min":"1"}}`},
		"pids without limit": {`{"pids":{"limit":4}}`, `{"pids":{}}`, `{"pids":{"limit":4}}`},
	} {
		t.Run(name, func(t *testing.T) {
			container, update := parse[*specs.LinuxResources](t, c.container), parse[*specs.LinuxResources](t, c.update)
			before := text(t, container) + text(t, update)
			if got := text(t, Overlay(*container, *update)); got != c.want {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
			if text(t, container)+text(t, update) != before {
				t.Error("an argument changed")
			}
		})
	}
}
