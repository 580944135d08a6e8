package estimate_test

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// TestEvaluate replays real container runs (Nextflow workflows, published
// with sizey) through the product's own Record and Predict, and reports how often
// a run exceeded the bound that was predicted before it, and how much was over-allocated.
//
//	FOREFEND_DATA=/path/to/data go test -run TestEvaluate -v ./predictor/estimate
//
// The data has a licence of its own and is not in this repository.
func TestEvaluate(t *testing.T) {
	dir := os.Getenv("FOREFEND_DATA")
	if dir == "" {
		t.Skip("FOREFEND_DATA names no directory with task_runs_nextflow.csv.gz")
	}
	runs := readRuns(t, filepath.Join(dir, "task_runs_nextflow.csv.gz"))
	for _, concurrent := range []bool{false, true} {
		for _, coverage := range []float64{0.99, 0.95} {
			e := evaluate(t, runs, coverage, concurrent)
			t.Log(e.table())
			if got := e.own.coverage(); got < coverage-0.005 {
				t.Errorf("asked %.3f, reached %.4f", coverage, got)
			}
		}
	}
}

// taskRun is one row of the data.
type taskRun struct {
	facts      workload.Facts
	start, end time.Time
	peak       float64
	asked      float64
}

func readRuns(t *testing.T, path string) []taskRun {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := make(map[string]int)
	for i, name := range rows[0] {
		column[name] = i
	}
	var out []taskRun
	for _, row := range rows[1:] {
		text := func(name string) string { return row[column[name]] }
		number := func(name string) float64 {
			v, err := strconv.ParseFloat(text(name), 64)
			if err != nil {
				return 0
			}
			return v
		}
		if number("peak_rss_bytes") <= 0 {
			continue
		}
		r := taskRun{start: time.UnixMilli(int64(number("start_ms"))), end: time.UnixMilli(int64(number("end_ms"))),
			peak: number("peak_rss_bytes"), asked: number("req_mem_bytes")}
		repository, _, _ := strings.Cut(text("container"), ":")
		r.facts = workload.Facts{Image: workload.Image{Name: text("container"), Repository: repository, Digest: text("container")},
			Args: []string{text("wf"), text("process")}}
		out = append(out, r)
	}
	return out
}

// tally sums up runs that had a bound.
type tally struct {
	runs, above int
	ratio, logs float64 // bound / actual
	asked       float64 // what the user asked for / actual
}

func (t *tally) add(bound float64, r taskRun) {
	t.runs++
	if r.peak > bound {
		t.above++
	}
	t.ratio += bound / r.peak
	t.logs += math.Log(bound / r.peak)
	t.asked += r.asked / r.peak
}

func (t *tally) coverage() float64 { return 1 - float64(t.above)/float64(max(t.runs, 1)) }

func (t *tally) row(name string) string {
	n := float64(max(t.runs, 1))
	return fmt.Sprintf("| %s | %d | %.2f %% | %.2f | %.2f | %.2f |\n", name, t.runs, 100*t.coverage(), t.ratio/n, math.Exp(t.logs/n), t.asked/n)
}

type evaluation struct {
	title   string
	own     tally // all runs whose bound came from their own workload's history
	buckets [6]tally
	first   tally // first runs, with a bound from more general history
	none    int   // runs for which nothing could be said
}

var bucketNames = [6]string{"1 run", "2", "3-4", "5-8", "9-16", "17 and more"}

func (e *evaluation) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n| history | runs | covered | mean bound/peak | geometric | asked by user/peak |\n|---|---|---|---|---|---|\n", e.title)
	for i := range e.buckets {
		b.WriteString(e.buckets[i].row(bucketNames[i]))
	}
	b.WriteString(e.own.row("all with history"))
	b.WriteString(e.first.row("first runs (node level)"))
	fmt.Fprintf(&b, "%d runs without any bound\n", e.none)
	return b.String()
}

func (e *evaluation) add(p workload.Prediction, r taskRun) {
	switch {
	case p.Memory.Value == 0:
		e.none++
	case p.Level != workload.LevelDigestCommand.String():
		e.first.add(p.Memory.Value, r)
	default:
		e.own.add(p.Memory.Value, r)
		b := 0
		for most := 1; b < len(e.buckets)-1 && p.Runs > most; most *= 2 {
			b++
		}
		e.buckets[b].add(p.Memory.Value, r)
	}
}

// moment is the start or the end of a run.
type moment struct {
	at  time.Time
	end bool
	run int
}

// evaluate predicts each run before it is recorded. Concurrent means as it
// happened: at its start, from the runs that had ended by then. Otherwise one
// run after the other, in the order of their ends.
func evaluate(t *testing.T, runs []taskRun, coverage float64, concurrent bool) *evaluation {
	t.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, t.TempDir(), store.Options{Unsynced: true, RunsPerSubject: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	book, err := history.Open(ctx, s, history.Options{Coverage: coverage, SnapshotEvery: math.MaxInt})
	if err != nil {
		t.Fatal(err)
	}
	e := &evaluation{title: fmt.Sprintf("one after the other, coverage %g", coverage)}
	if concurrent {
		e.title = fmt.Sprintf("as it happened, coverage %g", coverage)
	}
	predicted := make([]workload.Prediction, len(runs))
	for i, m := range moments(runs, concurrent) {
		r := runs[m.run]
		if !m.end {
			predicted[m.run] = book.Predict(r.facts.Query())
			continue
		}
		e.add(predicted[m.run], r)
		o := workload.Observation{Version: workload.ObservationVersion, Run: strconv.Itoa(m.run), Name: r.facts.Name(), Keys: r.facts.Keys(),
			Started: r.start, Ended: r.end, Final: true, Usage: workload.Usage{MemoryPeak: int64(r.peak)}}
		if !concurrent { // every run begins after the one before has ended
			o.Started = time.Unix(int64(10*i), 0)
			o.Ended = o.Started.Add(time.Second)
		}
		if err := book.Record(ctx, o); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func moments(runs []taskRun, concurrent bool) []moment {
	var out []moment
	for i, r := range runs {
		start := r.start
		if !concurrent {
			start = r.end
		}
		out = append(out, moment{start, false, i}, moment{r.end, true, i})
	}
	slices.SortStableFunc(out, func(a, b moment) int {
		if concurrent {
			return cmp.Or(a.at.Compare(b.at), compareBool(a.end, b.end))
		}
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.run, b.run), compareBool(a.end, b.end))
	})
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
