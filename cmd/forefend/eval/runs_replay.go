package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// evaluateRuns scores the daemon's history and the baselines on a file.
func evaluateRuns(ctx context.Context, data, prior string, coverages []float64) (runsResult, error) {
	result := runsResult{Baselines: make(map[string][]runsPoint)}
	runs, err := readRuns(data)
	if err != nil {
		return result, err
	}
	if len(runs) == 0 {
		return result, fmt.Errorf("no run of %s has a peak and a time", data)
	}
	var before []taskRun
	if prior != "" {
		if before, err = readRuns(prior); err != nil {
			return result, err
		}
	}
	for _, coverage := range coverages {
		p, err := bookPoint(ctx, runs, before, coverage)
		if err != nil {
			return result, err
		}
		result.Points = append(result.Points, p)
		for name, limits := range baselines() {
			result.Baselines[name] = append(result.Baselines[name], pointOf(coverage, playRuns(runs, limits)))
		}
	}
	return result, nil
}

// limiter is a method under test: it is asked at a run's start and told at its end.
type limiter interface {
	Limit(r *taskRun, id int) float64
	Ended(r *taskRun, id int)
}

// bookPoint plays runs through a history with the given coverage, with priors from a node on which other
// runs went before.
func bookPoint(ctx context.Context, runs, before []taskRun, coverage float64) (runsPoint, error) {
	var priors *history.Priors
	if len(before) > 0 {
		other, err := openReplay(ctx, coverage, nil)
		if err != nil {
			return runsPoint{}, err
		}
		playRuns(before, other)
		priors = other.book.Priors()
		if err := other.close(); err != nil {
			return runsPoint{}, err
		}
	}
	b, err := openReplay(ctx, coverage, priors)
	if err != nil {
		return runsPoint{}, err
	}
	outcomes := playRuns(runs, b)
	return pointOf(coverage, outcomes), b.close()
}

// bookReplay is the daemon's history over a store of its own.
type bookReplay struct {
	dir       string
	store     *store.Store
	book      *history.Book
	predicted map[int]workload.Prediction
	err       error
}

func openReplay(ctx context.Context, coverage float64, priors *history.Priors) (*bookReplay, error) {
	dir, err := os.MkdirTemp("", "forefend-eval-")
	if err != nil {
		return nil, fmt.Errorf("a place for the replay: %w", err)
	}
	b := &bookReplay{dir: dir, predicted: make(map[int]workload.Prediction)}
	if b.store, err = store.Open(ctx, dir, store.Options{Unsynced: true, RunsPerSubject: 4}); err == nil {
		b.book, err = history.Open(ctx, b.store, history.Options{Coverage: coverage, SnapshotEvery: math.MaxInt, Priors: priors})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the replay's history: %w", err), b.close())
	}
	return b, nil
}

func (b *bookReplay) close() error {
	err := b.err
	if b.store != nil {
		err = errors.Join(err, b.store.Close())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// Limit implements limiter.
func (b *bookReplay) Limit(r *taskRun, id int) float64 {
	p := b.book.Predict(r.facts.Query())
	b.predicted[id] = p
	if p.Memory.Value > 0 {
		return p.Memory.Value
	}
	return unlimited(r)
}

// Ended implements limiter. A bound is no hard limit, so a run above it is seen to its end.
func (b *bookReplay) Ended(r *taskRun, id int) {
	p := b.predicted[id]
	delete(b.predicted, id)
	o := workload.Observation{
		Version: workload.ObservationVersion, Run: strconv.Itoa(id), Group: r.facts.Group, Started: r.start, Ended: r.end, Final: true,
		Exit: workload.Exit{Status: r.exit}, Usage: workload.Usage{MemoryPeak: int64(r.peak)}, Predicted: p.Predicted(),
	}
	r.facts.Describe(&o)
	if err := b.book.Record(context.Background(), o); err != nil && b.err == nil {
		b.err = err
	}
}

// moment is the start or the end of a run.
type moment struct {
	at   time.Time
	kind int // 0: an end, 1: a start
	run  int
}

// playRuns asks a method for the limit of each run at its start and tells it at its end how high it went. What ends when
// another begins has ended.
func playRuns(runs []taskRun, m limiter) []outcome {
	moments := make([]moment, 0, 2*len(runs))
	for i, r := range runs {
		end := r.end
		if !end.After(r.start) { // even what took no time began before it ended
			end = r.start.Add(1)
		}
		moments = append(moments, moment{r.start, 1, i}, moment{end, 0, i})
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.kind, b.kind)) })
	out := make([]outcome, len(runs))
	ended := make(map[string]int)
	for _, now := range moments {
		r := &runs[now.run]
		if now.kind == 0 {
			ended[r.workload]++
			m.Ended(r, now.run)
			continue
		}
		out[now.run] = outcomeOf(r, ended[r.workload], m.Limit(r, now.run))
	}
	return out
}
