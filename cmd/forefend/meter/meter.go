package meter

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// other stands for every value that is not on a label's list.
const other = "other"

// The values of the labels.
var (
	operations     = []string{orchestrator.OperationAdmit, orchestrator.OperationUpdate, orchestrator.OperationAdjust, orchestrator.OperationRevert, orchestrator.OperationAlone}
	modes          = []string{policy.KeyMode.Format(policy.ModeEnforce), policy.KeyMode.Format(policy.ModeAdaptive), policy.KeyMode.Format(policy.ModeObserve)}
	availabilities = []string{string(api.ByDaemon), string(api.ByLastKnown), string(api.BySiteDefault), string(api.ByNobody)}
	sources        = []string{"history", "image", "executable", "scan", "load", "threats", "profile"}
	statuses       = []string{api.SourceOK, api.SourceAbsent, api.SourceLate, api.SourceFailed}
	kinds          = []string{api.EventAdmitted, api.EventUpdated, api.EventDenied, api.EventLearned, api.EventWatched, api.EventPhase, api.EventRaised, api.EventHeld, api.EventAgent, api.EventReceipt, api.EventExited,
		api.EventOOM, api.EventDegraded, api.EventCleaned, api.EventAnomaly, api.EventThreat, api.EventForecast, api.EventRisk,
		api.EventFrozen, api.EventThawed, api.EventKilled}
	scanned = []string{scans.OutcomeOK, scans.OutcomeIncomplete, scans.OutcomeFailed, scans.OutcomeDropped}
)

func oneOf(list []string, value string) string {
	if slices.Contains(list, value) {
		return value
	}
	return other
}

var (
	admitBuckets  = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}
	scanBuckets   = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	coarseBuckets = []float64{.0001, .0005, .001, .005, .01, .05, .1, 1}
)

// Meter implements orchestrator.Meter.
type Meter struct {
	*Figures
	admit        prometheus.Histogram
	observe      prometheus.Histogram
	source       *prometheus.HistogramVec
	scan         prometheus.Histogram
	scans        *prometheus.CounterVec
	decisions    *prometheus.CounterVec
	refused      *prometheus.CounterVec
	observations *prometheus.CounterVec
	events       *prometheus.CounterVec
	lost         *prometheus.CounterVec
}

var _ orchestrator.Meter = (*Meter)(nil)

// Decided implements orchestrator.Meter.
func (m *Meter) Decided(o orchestrator.Outcome) {
	operation := oneOf(operations, o.Operation)
	if o.Operation == orchestrator.OperationAdmit {
		m.admit.Observe(o.Took.Seconds())
		for _, s := range o.Sources {
			m.source.WithLabelValues(oneOf(sources, s.Name), oneOf(statuses, s.Status)).Observe(s.Took.Seconds())
		}
	}
	if o.Err != nil {
		m.refused.WithLabelValues(operation).Inc()
		return
	}
	m.decisions.WithLabelValues(operation, oneOf(modes, o.Mode), strconv.FormatBool(o.Sealed), oneOf(availabilities, string(o.Availability))).Inc()
}

// Observed implements orchestrator.Meter.
func (m *Meter) Observed(observations int, lost uint64, took time.Duration, err error) {
	m.observe.Observe(took.Seconds())
	if err != nil { // the shim sends all of it again
		m.observations.WithLabelValues("failed").Add(float64(observations))
		return
	}
	m.observations.WithLabelValues("kept").Add(float64(observations))
	m.lost.WithLabelValues("shim").Add(float64(lost))
}

// Published implements orchestrator.Meter.
func (m *Meter) Published(kind string) { m.events.WithLabelValues(oneOf(kinds, kind)).Inc() }

// JournalLost counts a decision or event that was not written to the journal.
func (m *Meter) JournalLost() { m.lost.WithLabelValues("journal").Inc() }

// Scanned counts how a scan came out. It is scans.Options.Done.
func (m *Meter) Scanned(outcome string, took time.Duration) {
	m.scans.WithLabelValues(oneOf(scanned, outcome)).Inc()
	if took > 0 {
		m.scan.Observe(took.Seconds())
	}
}
