package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

// History keeps what runs were seen to do.
type History interface {
	Record(context.Context, workload.Observation) error
	Search(context.Context, api.HistoryRequest) (api.HistoryResponse, error)
}

// Journal keeps decisions and events beyond the life of the daemon. Both
// appends may return before they are durable; Decision returns
// errdefs.ErrNotFound for a container it does not know.
type Journal interface {
	AppendDecision(api.Decision)
	AppendEvent(api.Event)
	Decision(context.Context, workload.ID) (api.Decision, error)
}

// Identifier completes facts with what only the node knows: image, digest,
// labels, executable. It returns how each of its sources fared.
type Identifier interface {
	Identify(context.Context, *workload.Facts) []api.Source
}

// Config is what Service needs to know of its node.
type Config struct {
	Site       policy.Site
	Privileged string
	Unified    bool          // the node uses cgroup v2
	NodeMemory int64         // bytes; 0: not known
	Reserve    int64         // bytes of memory that the node keeps when predicted limits are raised
	Predict    time.Duration // budget of all sources of a prediction together
	Containers record.Dir
	NotifyDir  string
	Sealed     record.SealedDir
	SpoolDir   string
	Collect    time.Duration // how long what a dead shim left is containerd's to remove; 0: a minute
	Now        func() time.Time
	Status     func() api.Status // what the daemon says of itself; Service adds its counts
	Meter      Meter             // nil: nothing is counted
	Monitor    Monitor           // nil: nothing is made of reports but history
	Responder  Responder         // nil: risks of running containers are told of, and nothing is done; needs a Monitor
	Limiter    Limiter           // nil: predicted memory limits are the shims' affair; needs a Monitor
}

// responds reports whether the policies of running containers follow what their shims report.
func (c *Config) responds() bool { return c.Responder != nil || c.Limiter != nil }

// Service implements api.Orchestrator.
type Service struct {
	cfg       Config
	history   History
	journal   Journal
	identity  Identifier
	predictor Predictor
	monitor   Monitor
	responses *responses
	adjust    func(context.Context, api.AdjustRequest) (api.AdjustResponse, error) // Adjust
	events    *feed
	seal      chan api.Decision
	absent    map[string]time.Time // open runs without a container, since when; upkeep alone uses it
	compiler  admit.Compiler
	seed      maphash.Seed
	sealed    map[workload.Key]sealNote // sealPolicy alone uses it
	meter     Meter
	adjusting [64]turn       // turns of Adjust, by container; see turn
	watching  [64]sync.Mutex // turns of look, by container; taken before mu
	auditing  sync.Mutex     // of audit and enter: one looks after what the journal lacks; locked before mu

	mu      sync.Mutex
	running map[workload.ID]*running // guarded by mu; changed by keepLocked and dropLocked alone
	// riskChange is closed with the next change of a risk; nil: nobody waits. Guarded by mu.
	riskChange chan struct{}
	kept       int // bytes of running, about; guarded by mu
	// unaudited are decisions found in records: made without a daemon, or by one that was killed before they were
	// in the journal. Guarded by mu.
	unaudited []api.Decision
}

// running is a container as the daemon knows it. Guarded by Service.mu.
type running struct {
	decision api.Decision
	size     int            // of decision, about
	entered  int            // revision that this daemon has put into the journal; 0: none
	usage    workload.Usage // as last reported, without its series
	pid      int
	started  time.Time
	found    evidence.Findings // by the monitor
	past     evidence.Findings // of found, what an earlier daemon found
	looks    int               // how often the monitor has found
	risk     *evidence.Risk    // with found; nil: as decided
}

var _ api.Orchestrator = (*Service)(nil)

// New builds a Service that knows of the containers whose records say that
// they run. recent are the newest events of an earlier life, oldest first.
func New(cfg Config, h History, j Journal, id Identifier, p Predictor, recent []api.Event) *Service {
	s := &Service{
		cfg: cfg, history: h, journal: j, identity: id, predictor: p, monitor: cfg.Monitor,
		responses: newResponses(), events: newFeed(recent), seal: make(chan api.Decision, sealQueue), seed: maphash.MakeSeed(), sealed: make(map[workload.Key]sealNote), running: make(map[workload.ID]*running), absent: make(map[string]time.Time),
		meter: cfg.Meter,
	}
	s.adjust = s.Adjust
	if s.meter == nil {
		s.meter = noMeter{}
	}
	if s.cfg.Collect == 0 {
		s.cfg.Collect = orphanLeave
	}
	for i := range s.adjusting {
		s.adjusting[i].taken = make(chan struct{}, 1)
	}
	s.adopt()
	return s
}

// adopt takes over the containers that were running before this daemon.
func (s *Service) adopt() {
	for r, err := range s.cfg.Containers.List {
		if err != nil || r.Decision == nil || !r.Alive() {
			continue
		}
		s.keepLocked(r.ID, s.found(r))
		s.unaudited = append(s.unaudited, *r.Decision)
		if s.cfg.responds() { // an earlier daemon may not have come to it, and nothing is reported of a container that has become quiet
			s.responses.at(r.ID, s.cfg.Now())
		}
	}
}

// found is a container that a record tells of, with what it was found at.
func (s *Service) found(rec record.Record) *running {
	r := &running{decision: *rec.Decision, pid: rec.PID, started: rec.Started}
	if h, ok := s.history.(finder); ok && s.monitor != nil {
		r.past = h.Found(rec.Run)
		r.found, r.risk = r.past, s.monitor.Reassess(r.decision, r.past)
	}
	return r
}

// finder is a History that knows what a run that goes on was found at, by its last observation.
type finder interface {
	Found(run string) evidence.Findings
}

// Admit implements api.Orchestrator.
func (s *Service) Admit(ctx context.Context, req api.AdmitRequest) (d api.Decision, err error) {
	arrived := s.cfg.Now()
	defer func() {
		if !req.DryRun && d.Wait == 0 {
			s.decided(ctx, OperationAdmit, req.Facts, d, s.cfg.Now().Sub(arrived), err)
		}
	}()
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return api.Decision{}, err
	}
	if err := req.Facts.ID.Validate(); err != nil {
		return api.Decision{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if req.DryRun && req.ListenerPath == "" {
		req.ListenerPath = filepath.Join(s.cfg.NotifyDir, "dry-run") // nobody will listen there
	}
	f := s.foresee(ctx, &req)
	d, err = admit.Decide(s.input(req, f))
	d.Wait = f.Wait
	if err != nil || req.DryRun || d.Wait > 0 {
		return d, err
	}
	if err := ctx.Err(); err != nil { // the shim has decided by itself meanwhile
		return api.Decision{}, fmt.Errorf("container %s: nobody waits for this decision any more: %w", req.Facts.ID, err)
	}
	s.admitted(d)
	return d, nil
}

// admitted keeps a decision: for ps, for the audit, and sealed for the time
// without a daemon.
func (s *Service) admitted(d api.Decision) {
	kept := withoutCode(d)
	s.mu.Lock()
	r := &running{decision: kept}
	s.keepLocked(d.Facts.ID, r)
	size := r.size
	s.mu.Unlock()
	s.journal.AppendDecision(kept)
	if size <= maxSealed {
		select {
		case s.seal <- kept:
		default: // the queue is full: the next run of this workload seals it
		}
	}
	s.publish(api.Event{
		Time: d.Time, ID: d.Facts.ID, Run: d.Facts.Run, Kind: api.EventAdmitted,
		Message: fmt.Sprintf("%s: mode %s, earlier runs: %d, %s", d.Facts.Name(),
			policy.KeyMode.Format(d.Effective.Mode()), d.Prediction.Runs, sealedWord(d)),
	})
}

// withoutCode leaves out what is large, and in force in the kernel.
func withoutCode(d api.Decision) api.Decision {
	d.Seccomp, d.Table = nil, nil
	return d
}

func sealedWord(d api.Decision) string {
	if d.Effective.Sealed() {
		return "sealed"
	}
	return "learning"
}

// Update implements api.Orchestrator.
func (s *Service) Update(ctx context.Context, req api.UpdateRequest) (after api.Decision, err error) {
	arrived, operation := s.cfg.Now(), OperationUpdate
	if req.Refused {
		operation = OperationRevert
	}
	defer func() { s.decided(ctx, operation, req.Before.Facts, after, s.cfg.Now().Sub(arrived), err) }()
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return api.Decision{}, err
	}
	if err := req.ID.Validate(); err != nil || req.Before.Facts.ID != req.ID {
		return api.Decision{}, fmt.Errorf("update of %s with a decision about %s: %w", req.ID, req.Before.Facts.ID, errdefs.ErrInvalidArgument)
	}
	after = req.Before
	if !req.Refused {
		after, err = admit.Readjust(req.Before, &req.Resources, s.cfg.Site, s.cfg.Unified)
	}
	if err != nil {
		return after, err
	}
	kept := withoutCode(after)
	s.mu.Lock()
	if r := s.running[req.ID]; r != nil && r.decision.Facts.Run == kept.Facts.Run {
		s.replaceLocked(r, kept)
		kept = r.decision
	}
	s.mu.Unlock()
	s.enter(ctx, req.Before, kept, nil)
	return after, nil
}

// Observe implements api.Orchestrator. It returns once every observation is
// durable; observations that could not be kept are named in the error. With an
// error no event is published: the shim sends them all again.
func (s *Service) Observe(ctx context.Context, req api.ObserveRequest) (err error) {
	arrived := s.cfg.Now()
	defer func() { s.meter.Observed(len(req.Observations), req.Lost, s.cfg.Now().Sub(arrived), err) }()
	if err := api.Understood(req.Version, req.Oldest); err != nil {
		return err
	}
	var errs []error
	for _, o := range req.Observations {
		errs = append(errs, s.record(ctx, &o))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, e := range req.Events {
		s.countAlone(e)
		s.publish(e)
		switch e.Kind {
		case api.EventCleaned:
			s.lost(ctx, e.ID, e.Run)
		case api.EventUpdated:
			s.renew(ctx, e.ID, e.Run)
		}
	}
	if req.Lost > 0 {
		s.publish(api.Event{Time: s.cfg.Now(), Kind: api.EventDegraded, Message: fmt.Sprintf("a shim dropped %d events: too many at once", req.Lost)})
	}
	for _, d := range req.Changed {
		s.changed(ctx, d)
	}
	for _, o := range req.Observations {
		s.note(o)
	}
	return nil
}

// changed takes a decision that a shim has put in force by itself.
func (s *Service) changed(ctx context.Context, d api.Decision) {
	if d.Facts.ID.Validate() != nil || d.Version < 1 || d.Version > api.Version {
		return // not from a shim of ours
	}
	kept := withoutCode(d)
	s.mu.Lock()
	if r := s.running[d.Facts.ID]; r != nil && supersedes(d, r.decision) {
		s.replaceLocked(r, kept)
		kept = r.decision
	}
	s.mu.Unlock()
	s.auditing.Lock()
	defer s.auditing.Unlock()
	s.auditOne(ctx, kept)
}

// supersedes reports whether d, by its shim's word, came into force after old, which is taken to be in force. Answers and reports of a shim can
// overtake one another. Of one number the later is the shim's: the other one was undone, or was the answer of a daemon that was too late with it.
func supersedes(d, old api.Decision) bool {
	switch {
	case d.Facts.Run != old.Facts.Run:
		return false
	case d.Revision != old.Revision:
		return d.Revision > old.Revision
	case d.Availability != old.Availability:
		return old.Availability == api.ByDaemon
	}
	return d.Changed().After(old.Changed())
}

// replaceLocked puts another decision about the same run in the place of the one that r has, but for what is known by now of who it is (see
// identifyAgain). s.mu is held.
func (s *Service) replaceLocked(r *running, d api.Decision) {
	d.Facts, d.Sources = r.decision.Facts, r.decision.Sources
	r.decision = d
	s.keepLocked(d.Facts.ID, r)
}

// record makes an observation durable, and the next prediction use it.
func (s *Service) record(ctx context.Context, o *workload.Observation) error {
	if err := o.ID.Validate(); err != nil {
		return fmt.Errorf("observation: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	s.know(*o)
	s.identifyAgain(ctx, *o)
	s.complete(o)
	s.watch(ctx, o)
	o.Trace = nil // large, and of no use to the history
	if err := s.history.Record(ctx, *o); err != nil {
		return fmt.Errorf("keep the observation of %s: %w", o.ID, err)
	}
	return nil
}

// note brings what is known of a container up to date with a recorded observation.
func (s *Service) note(o workload.Observation) {
	s.mu.Lock()
	r := s.running[o.ID]
	if r != nil && r.decision.Facts.Run == o.Run {
		r.usage = o.Usage
		r.usage.Series = nil
		if o.Final {
			s.dropLocked(o.ID)
		}
	}
	s.mu.Unlock()
	if o.Final {
		s.publish(exitEvent(o, s.cfg.Now()))
	}
}

// know takes over a container that was decided without this daemon: its shim
// reports, and has written the record.
func (s *Service) know(o workload.Observation) {
	knows := func() bool { // of an earlier run it may not have heard the end
		known := s.running[o.ID]
		return known != nil && known.decision.Facts.Run == o.Run
	}
	s.mu.Lock()
	known := knows()
	s.mu.Unlock()
	if known {
		return
	}
	r, err := s.cfg.Containers.Read(o.ID)
	if err != nil || r.Decision == nil || r.Run != o.Run {
		return
	}
	found := s.found(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !knows() { // else it was admitted meanwhile
		s.keepLocked(o.ID, found)
	}
	s.unaudited = append(s.unaudited, *r.Decision)
}

// identifyAgain finds out who a run is that was admitted before that was known
// in time: its history would go astray. Nobody waits for it but the report.
func (s *Service) identifyAgain(ctx context.Context, o workload.Observation) {
	s.mu.Lock()
	r := s.running[o.ID]
	if r == nil || r.decision.Facts.Run != o.Run || !slices.ContainsFunc(r.decision.Sources, lateIdentity) {
		s.mu.Unlock()
		return
	}
	facts, before := r.decision.Facts, r.decision.Sources
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, secondLook)
	defer cancel()
	sources := append(s.identity.Identify(ctx, &facts), slices.DeleteFunc(slices.Clone(before), lateIdentity)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[o.ID]; r != nil && r.decision.Facts.Run == o.Run {
		r.decision.Facts, r.decision.Sources = facts, firstOfEach(sources)
	}
}

// secondLook is the time to identify a run that has started already.
const secondLook = time.Second

func late(s api.Source) bool { return s.Status == api.SourceLate }

// lateIdentity reports whether a late source is one of the Identifier's, who can be asked again.
func lateIdentity(s api.Source) bool {
	return late(s) && (s.Name == api.SourceImage || s.Name == api.SourceExecutable)
}

// firstOfEach keeps the first source of each name.
func firstOfEach(sources []api.Source) []api.Source {
	seen := make(map[string]bool)
	return slices.DeleteFunc(sources, func(s api.Source) bool {
		again := seen[s.Name]
		seen[s.Name] = true
		return again
	})
}

// complete adds to an observation the keys only the daemon could work out.
func (s *Service) complete(o *workload.Observation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[o.ID]; r != nil && r.decision.Facts.Run == o.Run {
		r.decision.Facts.Describe(o)
		o.Predicted = r.decision.Prediction.Predicted()
	}
}

func exitEvent(o workload.Observation, now time.Time) api.Event {
	kind, oom := api.EventExited, ""
	if o.Usage.OOMKills > 0 {
		kind, oom = api.EventOOM, fmt.Sprintf(", %d processes killed for memory", o.Usage.OOMKills)
	}
	return api.Event{
		Time: now, ID: o.ID, Run: o.Run, Kind: kind,
		Message: fmt.Sprintf("exit status %d after %s, memory peak %s, %.2f CPU seconds%s", o.Exit.Status,
			o.Ended.Sub(o.Started).Round(time.Millisecond), policy.KeyMemory.Format(policy.Value(o.Usage.MemoryPeak)), o.Usage.CPUSeconds, oom),
	}
}

func (s *Service) publish(e api.Event) {
	e = s.events.publish(e)
	s.meter.Published(e.Kind)
	s.journal.AppendEvent(e)
}

// logError reports what has no caller to return to.
func logError(ctx context.Context, err error, what string) {
	if err != nil {
		log.G(ctx).WithError(err).Warn("forefend: " + what)
	}
}
