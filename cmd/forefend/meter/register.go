package meter

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"forefend.dev/forefend/runtime/orchestrator"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// Standing is what holds at the moment of a scrape.
type Standing struct {
	Containers   map[orchestrator.Standing]int
	Workloads    int
	Runs         uint64            // since the store began
	StoreBytes   map[string]uint64 // by stream; the streams are a fixed list
	StoreRecords map[string]uint64 // by stream
	SetAside     int               // damaged records and files
	Spooled      int               // observations that wait to be taken in
	Queue        int               // journal entries that wait for the disk
	Degraded     int               // what works less well than it should
}

// New returns a Meter whose figures Handler serves. now is called for each scrape, possibly by several goroutines.
func New(version string, now func() Standing) *Meter {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}
	}
	m := &Meter{
		Figures: &Figures{registry: prometheus.NewRegistry()},
		admit: prometheus.NewHistogram(histogram("forefend_admit_duration_seconds",
			"Time in which the daemon decided about a container to be created.", admitBuckets)),
		observe: prometheus.NewHistogram(histogram("forefend_observe_duration_seconds",
			"Time in which the daemon made a shim's report durable.", coarseBuckets)),
		source: prometheus.NewHistogramVec(histogram("forefend_source_duration_seconds",
			"Time that a source of a decision took, or was waited for.", coarseBuckets), []string{"source", "status"}),
		scan: prometheus.NewHistogram(histogram("forefend_scan_duration_seconds",
			"Time that the static analysis of an image took.", scanBuckets)),
		scans:        counter("forefend_scans_total", "Static analyses of images.", "outcome"),
		decisions:    counter("forefend_decisions_total", "Decisions about containers.", "operation", "mode", "sealed", "availability"),
		refused:      counter("forefend_decisions_refused_total", "Requests for a decision that were refused.", "operation"),
		observations: counter("forefend_observations_total", "Observations that shims sent, checkpoints included.", "result"),
		events:       counter("forefend_events_total", "Events published.", "kind"),
		lost:         counter("forefend_lost_events_total", "Events and journal entries dropped because too many came at once or the disk refused them.", "origin"),
	}
	m.registry.MustRegister(build(version, api.Version), m.admit, m.observe, m.source, m.decisions, m.refused, m.observations, m.events, m.lost, m.scan, m.scans,
		standing(now), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// A counter that is there before it counts lets rate() see the first one.
	for _, result := range []string{"kept", "failed"} {
		m.observations.WithLabelValues(result)
	}
	for _, origin := range []string{"shim", "journal"} {
		m.lost.WithLabelValues(origin)
	}
	for _, outcome := range scanned {
		m.scans.WithLabelValues(outcome)
	}
	for _, kind := range kinds {
		m.events.WithLabelValues(kind)
	}
	for _, operation := range operations[:3] { // a shim alone refuses nothing that the daemon hears of
		m.refused.WithLabelValues(operation)
	}
	return m
}

// standing collects what holds at the moment of a scrape.
type standing func() Standing

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	containersDesc = describe("forefend_running_containers", "Containers the daemon knows to run.", "mode", "sealed", "availability")
	workloadsDesc  = describe("forefend_workloads_known", "Workloads with a history.")
	runsDesc       = describe("forefend_runs_total", "Runs that the history has learned from since the store began.")
	bytesDesc      = describe("forefend_store_bytes", "Size of a stream of the store.", "stream")
	recordsDesc    = describe("forefend_store_records", "Records in a stream of the store.", "stream")
	asideDesc      = describe("forefend_set_aside_records", "Damaged records and files that were set aside.")
	spoolDesc      = describe("forefend_spool_files", "Observations that wait in the spool to be taken in.")
	queueDesc      = describe("forefend_journal_queue_entries", "Journal entries that wait for the disk.")
	degradedDesc   = describe("forefend_degraded_features", "What works less well than it should; forefend doctor explains each.")
)

// Describe implements prometheus.Collector.
func (standing) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{containersDesc, workloadsDesc, runsDesc, bytesDesc, recordsDesc, asideDesc, spoolDesc, queueDesc, degradedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (now standing) Collect(to chan<- prometheus.Metric) {
	s := now()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counts := make(map[[3]string]float64) // several unknown values may share one series
	for c, n := range s.Containers {
		counts[[3]string{oneOf(modes, c.Mode), strconv.FormatBool(c.Sealed), oneOf(availabilities, string(c.Availability))}] += float64(n)
	}
	for _, mode := range modes { // zero says more than nothing
		for _, sealed := range []string{"true", "false"} {
			counts[[3]string{mode, sealed, string(api.ByDaemon)}] += 0
		}
	}
	for labels, n := range counts {
		gauge(containersDesc, n, labels[:]...)
	}
	gauge(workloadsDesc, float64(s.Workloads))
	to <- prometheus.MustNewConstMetric(runsDesc, prometheus.CounterValue, float64(s.Runs))
	for stream, n := range s.StoreBytes {
		gauge(bytesDesc, float64(n), stream)
	}
	for stream, n := range s.StoreRecords {
		gauge(recordsDesc, float64(n), stream)
	}
	gauge(asideDesc, float64(s.SetAside))
	gauge(spoolDesc, float64(s.Spooled))
	gauge(queueDesc, float64(s.Queue))
	gauge(degradedDesc, float64(s.Degraded))
}
