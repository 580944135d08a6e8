package history

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// Options steers a Book. The zero value means the defaults.
type Options struct {
	Coverage         float64       // of the bounds; default 0.99
	Seal             float64       // highest missing mass of a sealed workload; default 0.2
	MinRuns          int           // fewest watched runs of a sealed workload; default 4
	PhaseRuns        int           // fewest runs that served, before Phases are Known; default 5, below 0: never
	Served           time.Duration // that each of them must have served; default: however briefly
	RunsPerWorkload  int           // most runs listed for one workload; default 64
	MaxKeys          int           // keys remembered, the longest unheard of are forgotten; default 100,000
	SnapshotEvery    int           // records between snapshots; default 2000
	MaxReplay        uint64        // most runs read at start, the newest; default 50,000, five seconds' worth
	CheckpointExpiry time.Duration // a run not heard of for so long has ended; default 1 h
	Now              func() time.Time
	Priors           *Priors // what to believe where this node has no history; nil: nothing
	// Ended is told of each run that is recorded as ended, with the number of its record in the store's Runs. It must
	// return at once.
	Ended func(seq uint64, o *workload.Observation)
}

func (o Options) withDefaults() Options {
	if o.Coverage <= 0 || o.Coverage >= 1 {
		o.Coverage = 0.99
	}
	if o.Seal <= 0 {
		o.Seal = 0.2
	}
	if o.MinRuns <= 0 {
		o.MinRuns = 4
	}
	if o.PhaseRuns == 0 {
		o.PhaseRuns = 5
	}
	if o.RunsPerWorkload <= 0 {
		o.RunsPerWorkload = 64
	}
	if o.MaxKeys <= 0 {
		o.MaxKeys = 100_000
	}
	if o.SnapshotEvery <= 0 {
		o.SnapshotEvery = 2000
	}
	if o.MaxReplay == 0 {
		o.MaxReplay = 50_000
	}
	if o.CheckpointExpiry <= 0 {
		o.CheckpointExpiry = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func (o Options) seal() seal {
	return seal{unseen: o.Seal, runs: o.MinRuns, served: o.PhaseRuns}
}

// snapshotName is the name of the Book's snapshot in the store. It changes with the format: after a rollback the older
// version finds its own, and reads the runs after it, instead of setting aside what it cannot read.
const (
	snapshotName  = "history-4"
	snapshotName3 = "history-3"
	snapshotName2 = "history-2"
	snapshotName1 = "history"
)

// snapshotNames are those that are looked for, in this order.
var snapshotNames = []string{snapshotName, snapshotName3, snapshotName2, snapshotName1}

// Book is the history of a node.
type Book struct {
	store   *store.Store
	options Options
	took    time.Duration
	notes   []string // what Open could not do; fixed after it

	// write serialises everything that changes the model or the store, so that the
	// model is always that of a prefix of the Runs stream. It is taken before mu.
	write   sync.Mutex
	seq     uint64    // guarded by write: the last record of Runs in the model
	unsaved int       // guarded by write: records since the last snapshot
	expired time.Time // guarded by write: when expire last ran

	mu    sync.RWMutex
	model *model // guarded by mu; what it points to too. Changing it needs write as well.
}

// Open loads the history kept in s: the last snapshot, the runs after it, and
// the checkpoints of runs that had not ended. Damage is set aside and reported
// by SetAside; the error is about a store that cannot be read at all.
func Open(ctx context.Context, s *store.Store, o Options) (*Book, error) {
	o = o.withDefaults()
	b := &Book{store: s, options: o, model: newModel(o.Coverage, o.MaxKeys)}
	began := time.Now()
	b.write.Lock()
	defer b.write.Unlock()
	if err := b.load(ctx); err != nil {
		return nil, fmt.Errorf("load the history: %w", err)
	}
	b.took = time.Since(began)
	return b, nil
}

// load needs write.
func (b *Book) load(ctx context.Context) error {
	for _, name := range snapshotNames {
		loaded := b.model
		seq, found, err := b.store.ReadSnapshot(name, func(r io.Reader) (err error) {
			loaded, err = readModel(r, b.options.Coverage, b.options.MaxKeys)
			return err
		})
		if err != nil {
			return err
		}
		if found {
			b.model, b.seq = loaded, seq
			break
		}
	}
	b.model.served = b.options.Served.Seconds()
	b.model.adopt(b.options.Priors)
	if err := b.skipOld(ctx); err != nil {
		return err
	}
	if err := b.replay(ctx, store.Runs, b.seq+1, func(r store.Record, o *workload.Observation) {
		b.model.end(o, endOf(o, r.Time))
		b.seq = r.Seq
		b.unsaved++
	}); err != nil {
		return err
	}
	if err := b.replay(ctx, store.Checkpoints, 0, func(r store.Record, o *workload.Observation) {
		b.model.checkpoint(o, r.Time)
		if old := b.model.crowded(); old != nil {
			b.model.forgetOpen(old.obs.Run) // its checkpoint stays in the store, until that has no room for it
		}
	}); err != nil {
		return err
	}
	return b.expire(ctx)
}

// skipOld bounds how many runs are read at start. There are more only when
// every snapshot is lost: containers must not wait for minutes then. Needs write.
func (b *Book) skipOld(ctx context.Context) error {
	state, err := b.store.State(ctx, store.Runs)
	if err != nil {
		return err
	}
	b.seq = min(b.seq, state.Last) // the store was replaced by an older one
	if state.Last-b.seq > b.options.MaxReplay {
		b.notes = append(b.notes, fmt.Sprintf("history: no usable snapshot; predictions are made from the newest %d of %d runs kept", b.options.MaxReplay, state.Records))
		b.seq = state.Last - b.options.MaxReplay
	}
	return nil
}

// replay gives each observation of a stream to f. What is no observation is set aside.
func (b *Book) replay(ctx context.Context, stream store.Stream, from uint64, f func(store.Record, *workload.Observation)) error {
	return b.store.Replay(ctx, stream, from, func(r store.Record) error {
		o, err := decodeLean(r.Body)
		if err != nil {
			b.store.SetAsideRecord(stream, r, err)
			return nil
		}
		f(r, o)
		return nil
	})
}

// Record keeps an observation and updates the model with it. When it returns
// without error the observation is on disk and the next Predict uses it. A
// checkpoint replaces the earlier ones of its run; the final observation
// replaces them all and counts once, however often it is recorded. The error of an observation that
// can never be recorded is ErrInvalid.
func (b *Book) Record(ctx context.Context, o workload.Observation) error {
	if err := validate(&o); err != nil {
		return fmt.Errorf("record run %.80s: %w", o.Run, err)
	}
	o.Trace = nil // detectors read it as it comes; it is no part of a run's record
	b.write.Lock()
	defer b.write.Unlock()
	var err error
	if o.Final {
		err = b.end(ctx, &o)
	} else {
		err = b.checkpoint(ctx, &o)
	}
	if err != nil {
		return fmt.Errorf("record run %.80s: %w", o.Run, err)
	}
	return b.keepUp(ctx)
}

// checkpoint needs write.
func (b *Book) checkpoint(ctx context.Context, o *workload.Observation) error {
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := b.store.Append(ctx, store.Checkpoints, o.Run, body); err != nil {
		return err
	}
	lean := *o
	lean.Usage.Series, lean.Programs = nil, nil // only the store keeps them
	now := b.options.Now()
	b.mu.Lock()
	b.model.checkpoint(&lean, now)
	crowded := b.model.crowded()
	b.mu.Unlock()
	if crowded == nil {
		return nil
	}
	return b.giveUp(ctx, crowded) // should it report again, that is added to what was counted
}

// end counts a run; needs write.
func (b *Book) end(ctx context.Context, o *workload.Observation) error {
	if o.Ended.IsZero() {
		o.Ended = b.options.Now()
	}
	body, err := json.Marshal(o)
	if err != nil {
		return err
	}
	seq, err := b.store.Append(ctx, store.Runs, subject(o.Keys[0]), body)
	if err != nil {
		return err
	}
	b.seq = seq
	b.unsaved++
	if b.options.Ended != nil {
		b.options.Ended(seq, o)
	}
	b.mu.Lock()
	_, open := b.model.open[o.Run]
	open = open || b.model.ended.has(o.Run)
	b.model.end(o, o.Ended)
	b.mu.Unlock()
	if !open {
		return nil
	}
	// A checkpoint that survives this is recognised when the history is loaded.
	return b.store.Remove(ctx, store.Checkpoints, o.Run)
}

// subject names a workload in the store.
func subject(k workload.Key) string { return fmt.Sprintf("%d-%s", k.Level, k.Value) }

// keepUp does what is due now and then: it counts runs that were not heard
// of for too long, and writes a snapshot. Needs write.
func (b *Book) keepUp(ctx context.Context) error {
	if b.options.Now().Sub(b.expired) > b.options.CheckpointExpiry/60 {
		if err := b.expire(ctx); err != nil {
			return err
		}
	}
	if b.unsaved < b.options.SnapshotEvery {
		return nil
	}
	return b.snapshot()
}

// expire counts the runs whose final observation never came; needs write.
func (b *Book) expire(ctx context.Context) error {
	b.expired = b.options.Now()
	before := b.expired.Add(-b.options.CheckpointExpiry)
	var gone []*run
	for _, r := range b.model.open {
		if r.end.Before(before) {
			gone = append(gone, r)
		}
	}
	slices.SortFunc(gone, func(x, y *run) int { return x.end.Compare(y.end) })
	for _, r := range gone {
		if err := b.giveUp(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// lostStatus is the guess about a run whose end nobody saw: whoever cleans up after a
// dead shim kills what is left of its container.
const lostStatus = 128 + 9

// giveUp counts a run by its last checkpoint; needs write.
func (b *Book) giveUp(ctx context.Context, r *run) error {
	o := *r.obs
	o.Ended = r.end
	o.Exit = workload.Exit{Status: lostStatus, Lost: true}
	return b.end(ctx, &o)
}

// Abandon counts a run whose final observation will never come, by its last
// checkpoint. A run that is not known, or was counted, is left as it is.
func (b *Book) Abandon(ctx context.Context, id string) error {
	b.write.Lock()
	defer b.write.Unlock()
	r := b.model.open[id]
	if r == nil {
		return nil
	}
	if err := b.giveUp(ctx, r); err != nil {
		return fmt.Errorf("abandon run %.80s: %w", id, err)
	}
	return nil
}

// Found is what a run that goes on was found at, by its last checkpoint.
func (b *Book) Found(run string) evidence.Findings {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if r := b.model.open[run]; r != nil {
		return r.obs.Findings
	}
	return evidence.Findings{}
}

// OpenRuns lists the runs that go on as far as the Book knows.
func (b *Book) OpenRuns() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make([]string, 0, len(b.model.open))
	for id := range b.model.open {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Predict says what is expected of the run that q is about. The result is the caller's.
func (b *Book) Predict(q workload.Query) workload.Prediction {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.model.predict(q, b.options.Coverage, b.options.seal())
}

// Snapshot writes the model to the store, so that the next Open need not read
// the runs it contains.
func (b *Book) Snapshot(context.Context) error {
	b.write.Lock()
	defer b.write.Unlock()
	return b.snapshot()
}

// snapshot needs write. Nobody changes the model meanwhile, so readers go on.
func (b *Book) snapshot() error {
	if err := b.store.WriteSnapshot(snapshotName, b.seq, b.model); err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	b.unsaved = 0
	return nil
}

// Close writes a snapshot when there is something new. The store stays open:
// it is the caller's.
func (b *Book) Close() error {
	b.write.Lock()
	defer b.write.Unlock()
	if b.unsaved == 0 {
		return nil
	}
	return b.snapshot()
}
