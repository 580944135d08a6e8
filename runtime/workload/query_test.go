package workload

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"forefend.dev/forefend/predictor/evidence"
)

func TestProgram(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{"/usr/bin/Redis-Server", "--save"}, "redis-server"},
		{[]string{"env", "-i", "LANG=C", "/bin/samtools", "index"}, "samtools"},
		{[]string{"tini", "--", "nginx"}, "nginx"},
		{[]string{"a\x00b\nc"}, "a?b?c"},
		{[]string{strings.Repeat("é", 50)}, strings.Repeat("é", 32)},
	} {
		got := Facts{Args: c.args}.Program()
		if got != c.want || len(got) > maxProgram || !utf8.ValidString(got) {
			t.Errorf("%q: %q, want %q", c.args, got, c.want)
		}
	}
}

// What is asked before a run is what is known of it when it has ended: else a model
// would learn from one thing and predict from another.
func TestQueryIsWhatWasObserved(t *testing.T) {
	f := redis()
	f.Requested = Requested{Memory: 1 << 30, CPUs: 2, PIDs: 100}
	f.Prior = evidence.MemoryPrior{Runtime: "redis", Typical: 8 << 20, High: 1 << 30, Basis: "maxmemory"}
	var o Observation
	f.Describe(&o)
	if q := o.Query(); !reflect.DeepEqual(q, f.Query()) {
		t.Errorf("%+v, want %+v", q, f.Query())
	}
	if q := f.Query(); q.Program != "redis-server" || q.Repository != "docker.io/library/redis" || q.Requested.Memory != 1<<30 || q.Prior.Runtime != "redis" || len(q.Keys) != 7 {
		t.Errorf("%+v", q)
	}
	if o.Name != f.Name() || o.Image != f.Image.Name {
		t.Errorf("%+v", o)
	}
}
