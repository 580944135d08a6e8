package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/history"
	"forefend.dev/forefend/predictor/profile"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/store"
	"forefend.dev/forefend/runtime/workload"
)

// openHistory opens the store, the model over it and the journal in it.
func (d *daemon) openHistory(ctx context.Context) (err error) {
	d.store, err = store.Open(ctx, d.cfg.StoreDir(), store.Options{
		RunsPerSubject: d.cfg.History.RunsPerWorkload, MaxAge: d.cfg.History.MaxAge, MaxBytes: d.cfg.History.MaxBytes,
	})
	if err != nil {
		return err
	}
	if d.profiles, err = profile.Open(ctx, d.store, time.Now); err != nil {
		return err
	}
	d.degraded = append(d.degraded, d.profiles.Notes()...)
	priors, err := readPriors(d.cfg.Prediction.Priors)
	if err != nil { // worth a complaint, not a daemon
		d.degraded = append(d.degraded, err.Error())
	}
	d.book, err = history.Open(ctx, d.store, history.Options{
		Priors:   priors,
		Ended:    d.profiles.Learn,
		Coverage: d.cfg.Prediction.Coverage, Seal: d.cfg.Prediction.Seal, MinRuns: d.cfg.Prediction.MinRuns,
		RunsPerWorkload: d.cfg.History.RunsPerWorkload,
		PhaseRuns:       phaseRuns(d.cfg.Phases.Runs), Served: d.cfg.Phases.Served,
	})
	if err != nil {
		return err
	}
	d.journal = newJournal(ctx, d.store, d.meter.JournalLost)
	return nil
}

// close releases what openDaemon took, in the reverse order. The lock goes
// last: until then no other daemon may open the store.
func (d *daemon) close() error {
	var errs []error
	if d.listener != nil {
		errs = append(errs, ignoreClosed(d.listener.Close()))
	}
	if d.scrapes != nil {
		errs = append(errs, ignoreClosed(d.scrapes.Close())) // closed already unless run was never reached
	}
	if d.nodes != nil {
		errs = append(errs, ignoreClosed(d.nodes.Close()))
	}
	if d.identity != nil {
		errs = append(errs, d.identity.Close())
	}
	if d.journal != nil {
		d.journal.close()
	}
	if d.book != nil {
		errs = append(errs, d.book.Close())
	}
	if d.monitor != nil {
		errs = append(errs, d.saveMonitor())
	}
	if d.profiles != nil {
		errs = append(errs, d.profiles.Save())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.settled {
		for _, part := range []string{daemonGroup, scanGroup} {
			_ = cgroup.Leave(d.cgroup(part), os.Getpid()) // an empty group stays; the next daemon takes it
		}
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// bookHistory shows a Book as the orchestrator's History.
type bookHistory struct{ *history.Book }

// predict is what the history says. No run gets more than the node has.
func (h bookHistory) predict(q workload.Query) workload.Prediction {
	p := h.Book.Predict(q)
	if cores := processors(); p.CPU.Value > cores {
		p.CPU.Value, p.CPU.Basis = cores, p.CPU.Basis+"; the node has no more"
	}
	return p
}

// Record implements orchestrator.History. What can never be recorded is ErrInvalidArgument.
func (h bookHistory) Record(ctx context.Context, o workload.Observation) error {
	err := h.Book.Record(ctx, o)
	if errors.Is(err, history.ErrInvalid) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// Search implements orchestrator.History.
func (h bookHistory) Search(ctx context.Context, req api.HistoryRequest) (api.HistoryResponse, error) {
	resp := api.HistoryResponse{SetAside: h.SetAside()}
	for _, w := range h.Workloads(req.Workload, req.Limit) {
		resp.Workloads = append(resp.Workloads, api.Workload{
			Key: w.Key, Name: w.Name, Runs: w.Runs, Last: w.Last, Prediction: w.Prediction, Sealed: w.Prediction.Sealed,
		})
	}
	if len(resp.Workloads) != 1 || req.Workload == "" {
		return resp, nil
	}
	runs, err := h.Runs(ctx, resp.Workloads[0].Key, req.Limit)
	resp.Runs = runs
	return resp, err
}

// nodeMemory is the memory of this node in bytes, 0 when the kernel does not say.
func nodeMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// phaseRuns is the history's word for the configured number of runs, of which 0 means never.
func phaseRuns(configured int) int {
	if configured == 0 {
		return -1
	}
	return configured
}
