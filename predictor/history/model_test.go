package history

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files of the current version")

func program(i int) workload.Facts {
	return workload.Facts{Image: workload.Image{Repository: fmt.Sprint("app", i), Digest: fmt.Sprint("sha256:", i)}, Args: []string{"run"}}
}

func end(m *model, o workload.Observation) { m.end(&o, o.Ended) }

func sampleModel() *model {
	m := newModel(0.99, 1000)
	learned := m.predict(program(9).Query(), 0.99, seal{})
	for n := range 40 {
		o := observe(program(n%3), n, int64(n+1)<<20, "openat", fmt.Sprint("call", n%7))
		o.Syscalls["futex"] = 1e6
		o.Native = []string{"openat"}
		o.Destinations = map[string]uint64{fmt.Sprint("tcp/10.0.0.", n, ":443"): 1}
		o.RootfsWrites = workload.No
		o.Predicted = learned.Predicted()
		o.Ways = map[string]uint64{"strong": 2, "standard endpoint=eu dedicated=alice": 1}
		end(m, o)
	}
	return m
}

func encoded(t *testing.T, m *model) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := m.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func predictions(m *model) (out []string) {
	for i := range 4 {
		out = append(out, fmt.Sprintf("%+v", m.predict(program(i).Query(), 0.99, seal{unseen: 0.2, runs: 4})))
	}
	return out
}

func TestSnapshotKeepsThePredictions(t *testing.T) {
	m := sampleModel()
	back, err := readModel(bytes.NewReader(encoded(t, m)), 0.99, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, want := strings.Join(predictions(back), "\n"), strings.Join(predictions(m), "\n"); got != want {
			t.Errorf("%s\nwant\n%s", got, want)
		}
		for _, m := range []*model{m, back} { // the rings go on at the same place
			end(m, observe(program(1), 100, 1<<30, "mount"))
		}
	}
}

// TestGoldenSnapshot reads what this and the earlier version of the program wrote.
func TestGoldenSnapshot(t *testing.T) {
	const path = "testdata/model-v5"
	if *update {
		if err := os.WriteFile(path, encoded(t, sampleModel()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{path, "testdata/model-v4", "testdata/model-v3", "testdata/model-v2", "testdata/model-v1"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := readModel(bytes.NewReader(b), 0.99, 1000)
		if err != nil {
			t.Fatal(err)
		}
		p := m.predict(program(0).Query(), 0.99, seal{unseen: 0.2, runs: 4})
		if p.Runs != 14 || p.Seen["futex"] != 14 || len(p.Hot) != 1 || len(p.Destinations) != 14 || p.RootfsWrites != workload.No || p.Memory.Value < 40<<20 {
			t.Errorf("%s: %+v", file, p)
		}
		if got := encoded(t, m); file == path && len(got) != len(b) {
			t.Errorf("%d bytes, the file has %d: if the format changed, raise modelVersion", len(got), len(b))
		}
	}
}

// What is known from runs of a second alone is bounded with more room, until one goes on for longer, also after a restart.
func TestBriefRuns(t *testing.T) {
	brief, long := newModel(0.99, 1000), newModel(0.99, 1000)
	for n := range 3 {
		o := observe(redis, n, 100<<20)
		end(long, o)
		o.Ended = o.Started.Add(time.Second)
		end(brief, o)
	}
	bound := func(m *model) workload.Bound { return m.predict(redis.Query(), 0.99, seal{}).Memory }
	first := bound(brief)
	if !strings.HasPrefix(first.Basis, "3 runs image+command, brief;") || strings.Contains(bound(long).Basis, "brief") || first.Value < 2*bound(long).Value {
		t.Errorf("%+v after brief runs, %+v after long ones", first, bound(long))
	}
	back, err := readModel(bytes.NewReader(encoded(t, brief)), 0.99, 1000)
	if err != nil || !reflect.DeepEqual(bound(back), first) {
		t.Errorf("%+v, %v", bound(back), err)
	}
	going := observe(redis, 7, 100<<20)
	going.Final = false
	brief.checkpoint(&going, going.Started.Add(5*time.Second))
	end(back, observe(redis, 8, 100<<20))
	if b, c := bound(brief), bound(back); b.Value > first.Value/2 || c.Value > first.Value/2 {
		t.Errorf("a run goes on: %+v, one has ended: %+v", b, c)
	}
	unknown := observe(redis, 0, 100<<20)
	unknown.Started = time.Time{}
	m := newModel(0.99, 1000)
	if end(m, unknown); strings.Contains(bound(m).Basis, "brief") {
		t.Errorf("how long it took is not known: %+v", bound(m))
	}
}

func TestSnapshotOfAnotherVersion(t *testing.T) {
	b := encoded(t, sampleModel())
	b[0] = modelVersion + 1
	if _, err := readModel(bytes.NewReader(b), 0.99, 1000); err == nil || !strings.Contains(err.Error(), "version 6") {
		t.Errorf("%v", err)
	}
}

func FuzzReadModel(f *testing.F) {
	for _, file := range []string{"testdata/model-v1", "testdata/model-v2", "testdata/model-v3", "testdata/model-v4", "testdata/model-v5"} {
		golden, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(golden)
		f.Add(golden[:len(golden)/2])
	}
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readModel(bytes.NewReader(b), 0.99, 100)
		if err != nil {
			return
		}
		if len(m.summaries.packed) > 100 {
			t.Fatalf("%d summaries", len(m.summaries.packed))
		}
		for key := range m.summaries.packed { // what was accepted must be usable
			m.predict(workload.Query{Keys: []workload.Key{key}}, 0.99, seal{unseen: 0.2, runs: 4})
			o := observe(program(1), 1, 1<<20, "openat")
			o.Keys = []workload.Key{key}
			end(m, o)
		}
		if _, err := readModel(bytes.NewReader(encoded(t, m)), 0.99, 1000); err != nil {
			t.Fatalf("not readable when written again: %v", err)
		}
	})
}

func TestForgetsTheLongestUnheardOf(t *testing.T) {
	m := newModel(0.99, 100)
	for n := range 1000 {
		end(m, observe(program(n), n, 1<<20, "openat"))
		if len(m.summaries.packed) > 100 {
			t.Fatalf("%d summaries", len(m.summaries.packed))
		}
	}
	if m.known(program(999).Keys()[0]) != 1 || m.known(program(0).Keys()[0]) != 0 {
		t.Error("the wrong ones were forgotten")
	}
	if m.known(workload.Key{Level: workload.LevelNode, Value: "node"}) != 1000 {
		t.Error("the node was forgotten")
	}
}

// live plays a run: what is said of it at its start is what is learned from at its end.
func live(m *model, q workload.Query, o workload.Observation) workload.Prediction {
	p := m.predict(q, 0.99, seal{unseen: 0.2, runs: 4})
	o.Requested, o.Prior, o.Program, o.Repository = q.Requested, q.Prior, q.Program, q.Repository
	o.Predicted = p.Predicted()
	end(m, o)
	return p
}

// Runs that go on at once were all told the same, from nothing, and teach no more than that.
func TestLearnsFromWhatWasSaidAtTheStart(t *testing.T) {
	m := newModel(0.99, 100)
	said := m.predict(redis.Query(), 0.99, seal{})
	for n := range 20 {
		o := observe(redis, n, 1<<20)
		o.Predicted = said.Predicted()
		end(m, o)
	}
	for pool, scores := range m.bounds[memory].State().Scores {
		if estimate.Pool(pool) != estimate.PoolUnknown && len(scores) != 0 {
			t.Fatalf("%d scores in pool %d from runs that were all under way at once", len(scores), pool)
		}
	}
	live(m, redis.Query(), observe(redis, 21, 1<<20))
	if got := len(m.bounds[memory].State().Scores[5]); got != 1 {
		t.Errorf("%d scores of a workload with 20 runs", got)
	}
}

func TestCensoredPeaksTeachNothing(t *testing.T) {
	m := newModel(0.99, 100)
	for n := range 10 {
		o := observe(redis, n, 10<<20)
		o.Usage.OOMKills = 1
		end(m, o)
		o = observe(redis, n+100, 10<<20)
		o.Exit.Lost = true
		end(m, o)
	}
	for _, pool := range m.bounds[memory].State().Scores {
		if len(pool) != 0 {
			t.Fatalf("%d scores", len(pool))
		}
	}
	if p := m.predict(redis.Query(), 0.99, seal{}); p.Memory.Value < 10<<20 {
		t.Errorf("%+v", p.Memory)
	}
}

func TestFirstRunOfAProgram(t *testing.T) {
	m := newModel(0.99, 10_000)
	stranger := func(n int) workload.Facts {
		f := program(n)
		f.Args = nil // no name in common
		return f
	}
	for n := range 600 {
		live(m, stranger(n).Query(), observe(stranger(n), n, 100<<20, "openat", "mount"))
	}
	p := m.predict(stranger(1000).Query(), 0.99, seal{unseen: 0.2, runs: 4})
	if p.Level != "node" || p.Runs != 600 || p.Unseen != 1 || p.Sealed || len(p.Seen) != 0 {
		t.Errorf("%+v", p)
	}
	if p.Memory.Value < 100<<20 || p.Memory.Value > 110<<20 {
		t.Errorf("%+v", p.Memory)
	}
}

// A first run is bounded by what is known beside it: the request, a scan, the same program elsewhere.
func TestFirstRunLeansOnWhatIsKnown(t *testing.T) {
	m := newModel(0.98, 1000)
	q := program(1).Query()
	bound := func(q workload.Query) workload.Bound { return m.predict(q, 0.98, seal{}).Memory }
	if b := bound(q); b.Value != 0 || len(b.Origins) != 1 {
		t.Errorf("from nothing: %+v", b)
	}
	q.Requested.Memory = 8 << 30
	request := bound(q)
	if request.Value < 4<<30 || request.Value > 8<<30 || !strings.HasPrefix(request.Basis, "the request;") {
		t.Errorf("from the request: %+v", request)
	}
	q.Prior = evidence.MemoryPrior{Runtime: "jvm", Typical: 256 << 20, High: 1 << 30}
	scan := bound(q)
	if scan.Value < 800<<20 || scan.Value > 1<<30 || !strings.Contains(scan.Basis, "scan: jvm") {
		t.Errorf("from the scan: %+v", scan)
	}
	live(m, program(2).Query(), observe(program(2), 1, 100<<20)) // its command is "run" as well
	if b := bound(q); b.Value < 100<<20 || b.Value > 500<<20 || !strings.HasPrefix(b.Basis, "alike by program:run") {
		t.Errorf("from the same program in another image: %+v", b)
	}
	live(m, q, observe(program(1), 2, 50<<20))
	if b := bound(q); b.Value < 50<<20 || b.Value > 160<<20 || !strings.HasPrefix(b.Basis, "1 run image+command") {
		t.Errorf("from its own run: %+v", b)
	}
	q.Requested.Memory = 60 << 20
	if b := bound(q); b.Value != 60<<20 {
		t.Errorf("above the request: %+v", b)
	}
	q.Requested.Memory = 40 << 20 // which it exceeded before
	if b := bound(q); b.Value <= 50<<20 {
		t.Errorf("a limit that did not hold binds: %+v", b)
	}
}

func TestWords(t *testing.T) {
	for name, want := range map[string][]string{
		"":                           nil,
		"SAMTOOLS_INDEX":             {"samtools", "index"},
		"python3.11":                 {"python"},
		"a-b_cd.efg":                 {"efg"},
		"one two three four five":    {"one", "two", "three", "four"},
		"again-again":                {"again"},
		strings.Repeat("x", 1000):    {strings.Repeat("x", maxTrait-16)},
		"\xff\xfe\x00redis-server\n": {"redis", "server"},
	} {
		if got := words(name); !slices.Equal(got, want) {
			t.Errorf("%.20q: %q, want %q", name, got, want)
		}
	}
}

func TestTraitsAreBounded(t *testing.T) {
	k := newKinship()
	for n := range maxTraits + 10 {
		k.meet(traitName{name: fmt.Sprint("word:", n)}, relative{who: uint64(n)}, uint64(n))
		k.shrink()
	}
	if len(k.traits) > maxTraits || k.traits["word:0"] != nil || k.traits[fmt.Sprint("word:", maxTraits+9)] == nil {
		t.Errorf("%d traits", len(k.traits))
	}
	for n := range 3 * maxRelated {
		k.meet(traitName{name: "x"}, relative{who: uint64(n % (2 * maxRelated)), peak: peak{float32(100 - n)}}, 1)
	}
	if got := k.traits["x"].members; len(got) != maxRelated || got[len(got)-1].who != maxRelated-1 || got[len(got)-1].peak[memory] != 100-(3*maxRelated-1) {
		t.Errorf("%+v", got)
	}
	k.meet(traitName{name: "x"}, relative{who: maxRelated - 1, peak: peak{1}}, 2)
	if got := k.traits["x"].members; len(got) != maxRelated || got[len(got)-1].peak[memory] != 100-(3*maxRelated-1) {
		t.Errorf("a workload's highest peak is forgotten: %+v", got)
	}
}

func TestRootfsWrites(t *testing.T) {
	for _, c := range []struct {
		runs []workload.Tristate
		want workload.Tristate
	}{
		{[]workload.Tristate{workload.No, workload.No}, workload.No},
		{[]workload.Tristate{workload.No, workload.Unknown}, workload.Unknown},
		{[]workload.Tristate{workload.No, workload.Yes, workload.No}, workload.Yes},
	} {
		m := newModel(0.99, 100)
		for n, w := range c.runs {
			o := observe(redis, n, 1<<20)
			o.RootfsWrites = w
			end(m, o)
		}
		if got := m.predict(redis.Query(), 0.99, seal{}).RootfsWrites; got != c.want {
			t.Errorf("%v: %q, want %q", c.runs, got, c.want)
		}
	}
}

func TestDestinationsAreBounded(t *testing.T) {
	m := newModel(0.99, 100)
	for n := range 5 {
		o := observe(redis, n, 1<<20)
		o.Destinations = make(map[string]uint64)
		for d := range 10 {
			o.Destinations[fmt.Sprintf("tcp/10.0.%d.%d:1", n, d)] = 1
		}
		o.Destinations[strings.Repeat("x", maxText+1)] = math.MaxUint64
		end(m, o)
	}
	got := m.predict(redis.Query(), 0.99, seal{}).Destinations
	if len(got) != maxDestinations || got[len(got)-1] != "tcp/10.0.4.9:1" {
		t.Errorf("%q", got)
	}
}

func BenchmarkPredict(b *testing.B) {
	m := newModel(0.99, 100_000)
	for n := range 20_000 {
		o := generateRun(n, 2000)
		end(m, o)
	}
	query := generated(7).Query()
	b.ReportAllocs()
	for b.Loop() {
		m.predict(query, 0.99, seal{unseen: 0.2, runs: 4})
	}
}

func BenchmarkEnd(b *testing.B) {
	m := newModel(0.99, 100_000)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		o := generateRun(n, 2000)
		m.end(&o, o.Ended)
	}
}
