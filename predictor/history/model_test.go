package history

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

var update = flag.Bool("update", false, "rewrite the golden files of the current version")

func program(i int) workload.Facts {
	return workload.Facts{Image: workload.Image{Repository: fmt.Sprint("app", i), Digest: fmt.Sprint("sha256:", i)}, Args: []string{"run"}}
}

func end(m *model, o workload.Observation) { m.end(&o, o.Ended) }

func sampleModel() *model {
	m := newModel(0.99, 1000)
	for n := range 40 {
		o := observe(program(n%3), n, int64(n+1)<<20, "openat", fmt.Sprint("call", n%7))
		o.Syscalls["futex"] = 1e6
		o.Native = []string{"openat"}
		o.Destinations = map[string]uint64{fmt.Sprint("tcp/10.0.0.", n, ":443"): 1}
		o.RootfsWrites = workload.No
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
		out = append(out, fmt.Sprintf("%+v", m.predict(program(i).Query(), 0.99, seal{0.2, 4})))
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

// TestGoldenSnapshot reads what an earlier version of the program wrote.
func TestGoldenSnapshot(t *testing.T) {
	const path = "testdata/model-v1"
	if *update {
		if err := os.WriteFile(path, encoded(t, sampleModel()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readModel(bytes.NewReader(b), 0.99, 1000)
	if err != nil {
		t.Fatal(err)
	}
	p := m.predict(program(0).Query(), 0.99, seal{0.2, 4})
	if p.Runs != 14 || p.Seen["futex"] != 14 || len(p.Hot) != 1 || len(p.Destinations) != 14 || p.RootfsWrites != workload.No || p.Memory.Value < 40<<20 {
		t.Errorf("%+v", p)
	}
	if got := encoded(t, m); len(got) != len(b) {
		t.Errorf("%d bytes, the file has %d: if the format changed, raise modelVersion", len(got), len(b))
	}
}

func TestSnapshotOfAnotherVersion(t *testing.T) {
	b := encoded(t, sampleModel())
	b[0]++
	if _, err := readModel(bytes.NewReader(b), 0.99, 1000); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("%v", err)
	}
}

func FuzzReadModel(f *testing.F) {
	golden, err := os.ReadFile("testdata/model-v1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(golden[:len(golden)/2])
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readModel(bytes.NewReader(b), 0.99, 100)
		if err != nil {
			return
		}
		if len(m.summaries) > 100 {
			t.Fatalf("%d summaries", len(m.summaries))
		}
		for key := range m.summaries { // what was accepted must be usable
			m.predict(workload.Query{Keys: []workload.Key{key}}, 0.99, seal{0.2, 4})
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
		if len(m.summaries) > 100 {
			t.Fatalf("%d summaries", len(m.summaries))
		}
	}
	if m.known(program(999).Keys()[0]) != 1 || m.known(program(0).Keys()[0]) != 0 {
		t.Error("the wrong ones were forgotten")
	}
	if m.known(workload.Key{Level: workload.LevelNode, Value: "node"}) != 1000 {
		t.Error("the node was forgotten")
	}
}

// A run that began before another ended was not predicted from it, and must not
// teach how well predictions do.
func TestLearnsFromWhatWasKnownAtTheStart(t *testing.T) {
	m := newModel(0.99, 100)
	for n := range 20 {
		o := observe(redis, n, 1<<20)
		o.Started, o.Ended = epoch, epoch.Add(time.Hour)
		end(m, o)
	}
	for _, pool := range m.bounds[memory].State().Scores {
		if len(pool) != 0 {
			t.Fatalf("%d scores from runs that were all under way at once", len(pool))
		}
	}
	o := observe(redis, 21, 1<<20)
	o.Started, o.Ended = epoch.Add(2*time.Hour), epoch.Add(3*time.Hour)
	end(m, o)
	if got := len(m.bounds[memory].State().Scores[5]); got != 1 {
		t.Errorf("%d scores", got)
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
	for n := range 200 {
		end(m, observe(program(n), n, 100<<20, "openat", "mount"))
	}
	p := m.predict(program(1000).Query(), 0.99, seal{0.2, 4})
	if p.Level != "node" || p.Runs != 200 || p.Unseen != 1 || p.Sealed || len(p.Seen) != 0 {
		t.Errorf("%+v", p)
	}
	if p.Memory.Value < 100<<20 || p.Memory.Value > 110<<20 {
		t.Errorf("%+v", p.Memory)
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
		m.predict(query, 0.99, seal{0.2, 4})
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
