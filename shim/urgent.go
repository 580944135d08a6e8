package shim

import (
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// Bounds of reports that do not wait for the next checkpoint, of one container.
const (
	urgentDelay = 100 * time.Millisecond // gathers what comes together
	urgentGap   = 250 * time.Millisecond
	urgentBurst = 4               // at once; then ...
	urgentEvery = 2 * time.Second // ... one in this time
)

// urgency is how a container's watch is told that something happened which is not to wait for the next checkpoint: a
// call was refused, a dangerous one let through, a destination or a program came up for the first time. It never blocks; the zero value
// tells nobody.
type urgency chan struct{}

func newUrgency() urgency { return make(urgency, 1) }

func (u urgency) call() {
	select {
	case u <- struct{}{}:
	default: // it has been told, or nobody listens
	}
}

// urgentPace is when the next urgent report may go: a hostile container must not make work for the daemon at will.
type urgentPace struct {
	left int       // of the burst
	at   time.Time // when left was true
	last time.Time // urgent report
}

// wait is how long an urgent report has to wait at now.
func (p *urgentPace) wait(now time.Time) time.Duration {
	if p.at.IsZero() {
		p.left, p.at = urgentBurst, now
	}
	if n := int(now.Sub(p.at) / urgentEvery); n > 0 {
		p.left, p.at = min(urgentBurst, p.left+n), p.at.Add(time.Duration(n)*urgentEvery)
	}
	d := max(urgentDelay, p.last.Add(urgentGap).Sub(now))
	if p.left == 0 {
		d = max(d, p.at.Add(urgentEvery).Sub(now))
	}
	return d
}

// spend notes that an urgent report goes.
func (p *urgentPace) spend(now time.Time) {
	p.wait(now)
	p.left, p.last = max(0, p.left-1), now
}

// The rise of a container's use over its last report that is not to wait for the next one: more than a quarter, and more than ...
const (
	riseMemory = 32 << 20 // bytes
	riseCPU    = 0.5      // cores
	risePIDs   = 32
)

// rose reports whether a container uses markedly more than what was reported last, or was killed for memory.
func rose(reported, now workload.Usage) bool {
	return now.OOMKills > reported.OOMKills ||
		now.MemoryPeak > reported.MemoryPeak+max(riseMemory, reported.MemoryPeak/4) ||
		now.CPUPeak > reported.CPUPeak+max(riseCPU, reported.CPUPeak/4) ||
		now.PIDsPeak > reported.PIDsPeak+max(risePIDs, reported.PIDsPeak/4)
}
