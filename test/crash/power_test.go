package crash

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/crash/ptrace"
)

// Variables of the processes of TestPowerCut.
const (
	writerVariable   = "FOREFEND_CRASH_WRITER"   // the process that writes: its directory
	recorderVariable = "FOREFEND_CRASH_RECORDER" // its tracer: where to write the changes
)

// Within this a store opens after any cut.
const opensWithin = 10 * time.Second

// TestPowerCut records every change that the store, the history and the sealed policies make on disk, in a process of
// their own, and cuts the power after each of them in each way. What was acknowledged as durable must be there, once,
// whatever happens to the rest; and the store must open, in time, and work.
func TestPowerCut(t *testing.T) {
	every := 1
	if !everything() {
		every = 17 // not a divisor of the number of fates: all of them occur
	}
	if testing.Short() {
		every = 101
	}
	ops := recordWriter(t)
	counts := make(map[opKind]int)
	for _, o := range ops {
		counts[o.Kind]++
	}
	t.Logf("%d changes: %v", len(ops), counts)
	if counts[opAck] < 2*writerRuns || counts[opSync] < writerRuns || counts[opRename] == 0 {
		t.Fatalf("the recording is not complete: %v", counts)
	}
	d, states := newDisk(), 0
	var acked []string
	for i, o := range ops {
		if o.Kind == opAck {
			acked = append(acked, string(o.Data))
		}
		d.apply(o)
		for j, f := range fates {
			if (i*len(fates)+j)%every != 0 {
				continue
			}
			states++
			dir := t.TempDir()
			if err := d.cut(f, dir); err != nil {
				t.Fatal(err)
			}
			if err := survived(t.Context(), dir, acked); err != nil {
				t.Errorf("power cut after change %d of %d (%s %s), unsynced changes are %s: %v", i, len(ops), o.Kind, o.Path, f, err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d states", states)
}

// recordWriter runs the writer under a tracer and returns its changes.
func recordWriter(t *testing.T) []op {
	t.Helper()
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "ops")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerVariable+"="+dir, recorderVariable+"="+log)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("record the writer: %v\n%s", err, out)
	}
	ops, err := readOps(log)
	if err != nil {
		t.Fatal(err)
	}
	return ops
}

// recordProcess is the tracer of the writer.
func recordProcess(dir, log string) error {
	f, err := os.Create(log)
	if err != nil {
		return err
	}
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	pid, err := syscall.ForkExec(os.Args[0], os.Args[:1], &syscall.ProcAttr{
		Env: []string{writerVariable + "=" + dir}, Files: []uintptr{in.Fd(), 1, 2},
	})
	if err != nil {
		return err
	}
	_ = in.Close()
	r := &recorder{dir: dir, to: gob.NewEncoder(f), known: make(map[string]bool)}
	if err := ptrace.Run(ptrace.Handler{Call: r.call}, map[int]ptrace.Mode{pid: ptrace.Step}, func() { _ = out.Close() }); err != nil {
		return err
	}
	return errors.Join(r.fail, f.Close())
}

const (
	writerRuns    = 24
	writerOpens   = 3 // times the writer closes and opens everything
	snapshotEvery = 5
)

// writer does what a daemon does to its directories, and says what is durable.
func writer(dir string) error {
	_, _ = os.Stdin.Read(make([]byte, 1)) // ends once the tracer is there
	ctx := context.Background()
	for part := range writerOpens {
		s, b, err := openAll(ctx, dir)
		if err != nil {
			return err
		}
		for n := part * writerRuns / writerOpens; n < (part+1)*writerRuns/writerOpens; n++ {
			if err := writeRun(ctx, dir, s, b, n); err != nil {
				return err
			}
		}
		if err := errors.Join(b.Close(), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

func openAll(ctx context.Context, dir string) (*store.Store, *history.Book, error) {
	s, err := store.Open(ctx, filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return nil, nil, err
	}
	b, err := history.Open(ctx, s, history.Options{SnapshotEvery: snapshotEvery})
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, b, nil
}

func writeRun(ctx context.Context, dir string, s *store.Store, b *history.Book, n int) error {
	o := workload.Observation{
		Version: workload.ObservationVersion, Run: fmt.Sprint("run", n), ID: workload.ID{Namespace: "default", Container: fmt.Sprint("c", n)},
		Name: fmt.Sprint("app", n%3), Keys: []workload.Key{powerKey(n % 3), {Level: workload.LevelNode, Value: "node"}},
		Started: time.Unix(int64(n)*60, 0), Watched: true, Syscalls: map[string]uint64{"openat": 3, fmt.Sprint("call", n): 1},
		Usage: workload.Usage{MemoryPeak: 1 << 20, PIDsPeak: 2, CPUPeak: 0.5},
	}
	if err := record.SealedDir(filepath.Join(dir, "sealed")).Write(powerKey(n%3), powerDecision(n)); err != nil {
		return err
	}
	if _, err := s.Append(ctx, store.Decisions, o.ID.String(), []byte(o.Run)); err != nil {
		return err
	}
	fmt.Println("decision", o.ID)
	if err := b.Record(ctx, o); err != nil {
		return err
	}
	if n%8 == 7 {
		fmt.Println("open", o.Run) // its end never comes
		return nil
	}
	o.Final, o.Ended = true, o.Started.Add(time.Minute)
	if err := b.Record(ctx, o); err != nil {
		return err
	}
	fmt.Println("run", o.Run)
	return nil
}

func powerKey(n int) workload.Key {
	return workload.Key{Level: workload.LevelDigestCommand, Value: fmt.Sprintf("%032x", n)}
}

func powerDecision(n int) api.Decision {
	return api.Decision{Version: api.Version, Facts: workload.Facts{Run: fmt.Sprint("run", n)}, Notes: []string{strings.Repeat("a long note ", 500)}}
}

// survived opens what a power cut left and checks it against what was acknowledged before.
func survived(ctx context.Context, dir string, acked []string) error {
	began := time.Now()
	s, b, err := openAll(ctx, dir)
	if err != nil {
		return err
	}
	defer s.Close()
	if took := time.Since(began); took > opensWithin {
		return fmt.Errorf("it took %v to open", took)
	}
	var errs []error
	runs, finals := make(map[string]int), 0
	if err := s.Replay(ctx, store.Runs, 0, func(r store.Record) error {
		name := string(r.Body)
		_, name, _ = strings.Cut(name, `"run":"`)
		name, _, _ = strings.Cut(name, `"`)
		runs[name]++
		return nil
	}); err != nil {
		return err
	}
	open := b.OpenRuns()
	for _, a := range acked {
		kind, name, _ := strings.Cut(a, " ")
		switch kind {
		case "run":
			finals++
			if runs[name] != 1 {
				errs = append(errs, fmt.Errorf("%s is there %d times", name, runs[name]))
			}
		case "open":
			if runs[name] == 0 && !strings.Contains(strings.Join(open, " ")+" ", name+" ") {
				errs = append(errs, fmt.Errorf("%s, which goes on, is lost", name))
			}
		case "decision":
			kept, err := s.Newest(ctx, store.Decisions, name, 1)
			if err != nil || len(kept) != 1 {
				errs = append(errs, fmt.Errorf("the decision about %s is lost: %v", name, err))
			}
		}
	}
	if got := int(b.Stats().Runs); got < finals || got > writerRuns {
		errs = append(errs, fmt.Errorf("%d runs are counted, %d were acknowledged", got, finals))
	}
	errs = append(errs, sealedOrDamaged(dir), works(ctx, b))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w; set aside: %q", err, s.SetAside())
	}
	return nil
}

// sealedOrDamaged checks that a sealed policy is what was written, or not there, or known to be damaged.
func sealedOrDamaged(dir string) error {
	for n := range 3 {
		d, _, err := record.SealedDir(filepath.Join(dir, "sealed")).Read([]workload.Key{powerKey(n)})
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, record.ErrDamaged):
		case err != nil:
			return err
		case len(d.Notes) != 1 || len(d.Notes[0]) != len(powerDecision(0).Notes[0]):
			return fmt.Errorf("a sealed policy is not what was written: %+v", d)
		}
	}
	return nil
}

// works checks that a run can be recorded and is used.
func works(ctx context.Context, b *history.Book) error {
	before := b.Stats().Runs
	key := workload.Key{Level: workload.LevelDigestCommand, Value: strings.Repeat("f", 32)}
	err := b.Record(ctx, workload.Observation{
		Version: workload.ObservationVersion, Run: "after", ID: workload.ID{Namespace: "default", Container: "after"}, Keys: []workload.Key{key},
		Final: true, Ended: time.Unix(1<<30, 0),
	})
	if err != nil {
		return err
	}
	if b.Stats().Runs != before+1 || b.Predict(workload.Query{Keys: []workload.Key{key}}).Runs != 1 {
		return errors.New("a run recorded afterwards is not used")
	}
	return b.Close()
}
