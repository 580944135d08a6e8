package monitor

import (
	"slices"
	"strings"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/anomaly"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/forecast"
	"forefend.dev/forefend/runtime/workload"
)

// Bounds of a Monitor.
const (
	maxRuns      = 2048 // containers followed
	maxBaselines = 512  // workloads remembered
	// A run that goes on teaches its baseline so often. What it does in between is judged by what came before.
	learnEvery = time.Hour
	// horizon is how far ahead the reaching of a limit is told.
	horizon = 10 * time.Minute
)

// Threats says what is listed and which attack patterns observations match.
type Threats interface {
	// Contacts are those of the destinations that are listed now.
	Contacts(now time.Time, destinations []string) []evidence.Contact
	// Techniques are the patterns that everything seen of a run matches.
	Techniques(*workload.Observation, Program) []evidence.Technique
}

// Program is the container's own program.
type Program struct{ Path, SHA256 string }

// Limits are what a container is held to; 0: nothing.
type Limits struct {
	Memory float64 // bytes
	CPUs   float64 // cores
	PIDs   float64
}

// Subject is what is known of a container beside its reports.
type Subject struct {
	Program Program
	Limits  Limits
}

// Monitor follows containers.
type Monitor struct {
	node     Limits // what a container without limits cannot exceed
	threats  Threats
	forecast *forecast.Model

	mu        sync.Mutex
	runs      map[string]*run      // by Observation.Run; guarded by mu
	baselines map[string]*baseline // by key of the workload; guarded by mu
}

// run is one container. Its fields are guarded by its own mutex, except heard.
type run struct {
	heard time.Time // guarded by Monitor.mu

	mu       sync.Mutex
	baseline *baseline
	watch    *anomaly.Watch
	learned  time.Time
	tracks   tracks
	seen     map[string]uint64 // destinations
	refused  map[string]uint64 // likewise, what did not reach them
	syscalls map[string]uint64 // as of the last report
	denied   map[string]uint64
	programs map[string]uint64
	faults   map[string]uint64 // of the agent's channel
	found    evidence.Findings
}

// baseline is what is known of a workload. Its fields are guarded by Monitor.mu.
type baseline struct {
	model *anomaly.Baseline
	state []byte // until it is used first
	heard time.Time
	dirty bool // model is not what was saved
}

// New returns a Monitor that knows nothing yet. threats may be nil.
func New(node Limits, threats Threats) *Monitor {
	return &Monitor{
		node: node, threats: threats, forecast: forecast.New(forecast.Config{Horizon: horizon}),
		runs: make(map[string]*run), baselines: make(map[string]*baseline),
	}
}

// Observe takes a report of a run, made at now. It returns everything found in the run so far, and what of that is new. A final
// report ends the run, of which nothing is kept but what it taught.
func (m *Monitor) Observe(o *workload.Observation, s Subject, now time.Time) (found, fresh evidence.Findings) {
	r := m.run(o, s, now)
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh.Anomalies = r.watch.Observe(*o, now)
	if m.threats != nil {
		fresh.Techniques = m.techniques(r, o, s.Program, now)
	}
	fresh.Techniques = append(fresh.Techniques, r.broken(o, now)...)
	m.contacts(r, o, now, &fresh)
	fresh.Forecasts = r.tracks.observe(o, s.Limits, now)
	fresh = fresh.Bounded()
	r.found = r.found.With(fresh)
	if o.Final || now.Sub(r.learned) >= learnEvery {
		m.learn(r, now)
	}
	if o.Final {
		m.mu.Lock()
		delete(m.runs, o.Run)
		m.mu.Unlock()
	}
	return r.found, fresh
}

// contacts looks up the destinations that are new since the last report, and the container's program in its first.
func (m *Monitor) contacts(r *run, o *workload.Observation, now time.Time, fresh *evidence.Findings) {
	news := more(r.seen, o.Destinations)
	refused := more(r.refused, o.Refused)
	r.seen, r.refused = o.Destinations, o.Refused
	if m.threats == nil || len(news)+len(refused) == 0 {
		return
	}
	known := make(map[string]bool)
	for _, c := range r.found.Contacts {
		known[c.Destination+"\x00"+c.Feed] = true
	}
	for _, list := range [][]string{news, refused} {
		for _, c := range m.threats.Contacts(now, list) {
			c.Seen = now
			_, c.Refused = o.Refused[c.Destination] // its connect may have been seen, too
			if key := c.Destination + "\x00" + c.Feed; !known[key] {
				known[key] = true
				fresh.Contacts = append(fresh.Contacts, c)
				continue
			}
			r.found = r.found.With(evidence.Findings{Contacts: []evidence.Contact{c}}) // no news, but now
		}
	}
}

// techniques are the patterns that the run as a whole matches for the first time. What it matches by what it did since the
// last report alone it is caught at again.
func (m *Monitor) techniques(r *run, o *workload.Observation, p Program, now time.Time) []evidence.Technique {
	fresh := unknown(r.found.Techniques, m.threats.Techniques(o, p))
	for i := range fresh {
		fresh[i].Seen = now
	}
	latest := *o
	latest.Syscalls, latest.Denied = since(r.syscalls, o.Syscalls), since(r.denied, o.Denied)
	latest.Programs, latest.Destinations = since(r.programs, o.Programs), since(r.seen, o.Destinations)
	r.syscalls, r.denied, r.programs = o.Syscalls, o.Denied, o.Programs
	if len(r.found.Techniques) == 0 {
		return fresh
	}
	known := slices.Clone(r.found.Techniques) // others hold the old ones
	for _, t := range m.threats.Techniques(&latest, p) {
		for i := range known {
			if known[i].ID == t.ID {
				known[i].Seen = now
			}
		}
	}
	r.found.Techniques = known
	return fresh
}

// broken is what it means that a container's agent breaks the rules of its channel, as it did since the last report, or counts other
// connections than its gateway. Forefend's own program does neither: somebody speaks in its place. One that is killed leaves half a record,
// so that counts for less.
func (r *run) broken(o *workload.Observation, now time.Time) []evidence.Technique {
	news := more(r.faults, o.Faults)
	r.faults = o.Faults
	if len(news) == 0 {
		return nil
	}
	slices.Sort(news)
	receipts := func(kind string) bool { return strings.HasPrefix(kind, workload.ReceiptFault) }
	var found []evidence.Technique
	if contradicted := slices.DeleteFunc(slices.Clone(news), func(kind string) bool { return !receipts(kind) }); len(contradicted) > 0 {
		found = append(found, evidence.Technique{
			ID: "T1048", Name: "Exfiltration Over Alternative Protocol", Confidence: 0.9, Severity: 0.8, Seen: now,
			Why: "what the container's agent counts of its connections and its gateway's receipts contradict each other: " + strings.Join(contradicted, ", "),
		})
	}
	if news = slices.DeleteFunc(news, receipts); len(news) == 0 {
		return found
	}
	t := evidence.Technique{
		ID: "T1562.001", Name: "Impair Defenses: Disable or Modify Tools", Confidence: 0.3, Severity: 0.8, Seen: now,
		Why: "the container's agent broke the rules of its channel: " + strings.Join(news, ", "),
	}
	if slices.ContainsFunc(news, func(kind string) bool { return kind != "truncated" && kind != "stalled" }) {
		t.Confidence = 0.9
	}
	return append(found, t)
}

// since is what was counted since the counts before.
func since(before, now map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64)
	for name, n := range now {
		if n > before[name] {
			out[name] = n - before[name]
		}
	}
	return out
}

// more lists what was counted since the counts before.
func more(before, now map[string]uint64) (news []string) {
	for d, n := range now {
		if n > before[d] {
			news = append(news, d)
		}
	}
	return news
}

// unknown are the techniques that were not found before, or are surer now.
func unknown(before, now []evidence.Technique) (fresh []evidence.Technique) {
	sure := make(map[string]float64, len(before))
	for _, t := range before {
		sure[t.ID] = t.Confidence
	}
	for _, t := range now {
		if was, ok := sure[t.ID]; !ok || t.Confidence > was {
			fresh = append(fresh, t)
		}
	}
	return fresh
}

// run finds or begins the run of a report.
func (m *Monitor) run(o *workload.Observation, s Subject, now time.Time) *run {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.runs[o.Run]
	if r == nil {
		b := m.baselineLocked(o.Keys, now)
		r = &run{
			baseline: b, watch: b.model.Watch(o.Started), learned: now, tracks: newTracks(m.forecast, s.Limits.within(m.node), o.Started),
		}
		room(m.runs, maxRuns, func(r *run) time.Time { return r.heard })
		m.runs[o.Run] = r
	}
	r.heard = now
	return r
}

// within bounds limits by those of the node.
func (l Limits) within(node Limits) Limits {
	least := func(a, b float64) float64 {
		if a <= 0 || b > 0 && b < a {
			return b
		}
		return a
	}
	return Limits{least(l.Memory, node.Memory), least(l.CPUs, node.CPUs), least(l.PIDs, node.PIDs)}
}

// Runs is how many containers are followed.
func (m *Monitor) Runs() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.runs)
}

// Forget ends runs of which no more will be heard: their containers are gone. What they did is not learned.
func (m *Monitor) Forget(run string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.runs, run)
}

// room makes room for one more entry: the eighth that was not heard of for longest goes.
func room[V any](in map[string]V, most int, heard func(V) time.Time) {
	for len(in) >= most {
		oldest := make([]time.Time, 0, len(in))
		for _, v := range in {
			oldest = append(oldest, heard(v))
		}
		before := nth(oldest, most/8)
		for name, v := range in {
			if !heard(v).After(before) {
				delete(in, name)
			}
		}
	}
}
