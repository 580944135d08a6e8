package cgroup

import (
	"time"

	"forefend.dev/forefend/runtime/workload"
)

// Series condenses the samples of one run, however long, into its Usage. Add a
// sample when the container starts, one each second, and one after its last
// process has gone but before its group is removed: the first and the last
// make a run shorter than a second count, since totals and watermarks survive
// the processes. The zero value is ready for use.
//
// MemoryPeak is what a limit must leave room for: the highest working set of
// the samples, or, when the kernel's watermark rose between two samples to
// where neither of them is, that watermark without the reclaimable cache both
// had. So a spike between samples counts in full, cache that piles up does
// not, and a run too short to tell counts as the kernel's watermark: where
// they differ it errs to the high side. It includes what runc's own init
// needed in the group before the workload's first instruction, because a limit
// applies to that too.
//
// PIDsPeak does not: a run whose watermark stays under that of runc's init
// counts by its samples, and a very short one as 0, not known.
//
// CPUSeconds and the series start at the first sample: runc's init does not
// count. A total that goes back (the group was made anew) counts as no
// progress, then from there.
type Series struct {
	first, last Sample
	usage       workload.Usage
	cpu         time.Duration // used since first
	peak        cpuPeak
	points      points
}

// Add takes the next sample in order of time. One that is not later than the
// one before updates totals and watermarks only.
func (s *Series) Add(sample Sample) {
	if s.usage.Samples == 0 {
		s.first, s.last = sample, sample
		s.last.MemoryPeak = 0 // the watermark's first value is a rise
	}
	s.addMemory(sample)
	s.addTotals(sample)
	s.addPIDs(sample)
	used := max(0, sample.CPU-s.last.CPU)
	s.cpu += used
	if at := sample.Time.Sub(s.first.Time); sample.Time.After(s.last.Time) {
		s.peak.add(at, s.cpu)
		s.points.add(point{at: at, memory: sample.Memory, cpu: used, pids: sample.PIDs})
	}
	s.usage.Samples++
	if sample.Time.Before(s.last.Time) {
		sample.Time = s.last.Time
	}
	s.last = sample
}

// addPIDs counts the kernel's watermark only once it has risen: what it was at
// the first sample are the threads of runc's init.
func (s *Series) addPIDs(sample Sample) {
	s.usage.PIDsPeak = max(s.usage.PIDsPeak, sample.PIDs)
	if sample.PIDsPeak > s.first.PIDsPeak {
		s.usage.PIDsPeak = max(s.usage.PIDsPeak, sample.PIDsPeak)
	}
}

func (s *Series) addMemory(sample Sample) {
	need := sample.Memory
	switch {
	case sample.MemoryPeak <= s.last.MemoryPeak:
	case sample.atWatermark() && sample.LimitHits == s.last.LimitHits:
		need += max(0, sample.MemoryPeak-sample.usage())
	default: // also at the limit: usage stays there whatever it consists of
		need = max(need, sample.MemoryPeak-min(s.last.Cache, sample.Cache))
	}
	s.usage.MemoryPeak = max(s.usage.MemoryPeak, need)
	// After the last process only cache is left. Where processes are not
	// counted, nothing tells.
	if sample.PIDs > 0 || s.usage.PIDsPeak == 0 {
		s.usage.MemoryLast, s.usage.MemoryNeed = sample.Memory, sample.Need
	}
}

func (s Sample) usage() int64 { return s.Memory + s.Cache }

// atWatermark reports whether usage is as high as it ever was, so that the
// sample itself tells how much of the watermark is cache. The kernel charges in batches
// for each CPU, hence not exactly as high.
func (s Sample) atWatermark() bool { return s.usage() >= s.MemoryPeak-s.MemoryPeak/32 }

// addTotals adds what the kernel counts since the group was made. The group is
// the container's own, so these are the run's from the first sample on.
func (s *Series) addTotals(sample Sample) {
	last := s.last
	if s.usage.Samples == 0 {
		last = Sample{}
	}
	s.usage.Throttled += max(0, sample.Throttled-last.Throttled).Seconds()
	s.usage.OOMKills += max(0, sample.OOMKills-last.OOMKills)
	s.usage.MemoryFail += max(0, sample.LimitHits-last.LimitHits)
	s.usage.ReadBytes += max(0, sample.ReadBytes-last.ReadBytes)
	s.usage.WriteBytes += max(0, sample.WriteBytes-last.WriteBytes)
}

// Usage returns what was used up to the last sample. With one sample only, its
// CPU total is all that is known and is taken, runc's init included.
func (s *Series) Usage() workload.Usage {
	u := s.Totals()
	u.Series = s.points.series()
	return u
}

// Totals returns the usage without its series, which costs nothing.
func (s *Series) Totals() workload.Usage {
	u := s.usage
	u.CPUSeconds = s.cpu.Seconds()
	if u.Samples == 1 {
		u.CPUSeconds = s.first.CPU.Seconds()
	}
	u.CPUPeak = s.peak.cores()
	return u
}

// cpuPeak finds the most CPU used over about one second.
type cpuPeak struct {
	recent []mark // oldest first, from about a second before the newest
	last   mark
	most   float64 // cores
	full   bool    // most is over a whole second
}

// mark is how much CPU had been used at a time since the first sample.
type mark struct{ at, cpu time.Duration }

const (
	// window is the second that a peak is over, less what a ticker may be early.
	window = 900 * time.Millisecond
	// spacing bounds the marks of one window when samples come thicker.
	spacing = window / 16
	// period is the kernel's default CFS period. A run shorter than it is limited
	// by what it may use in one period, so its use is spread over one.
	period = 100 * time.Millisecond
)

func (p *cpuPeak) add(at, cpu time.Duration) {
	p.last = mark{at, cpu}
	if len(p.recent) == 0 {
		p.recent = append(p.recent, mark{}) // the first sample
	}
	// Leave one mark that is a window back, drop those before it.
	for len(p.recent) > 1 && at-p.recent[1].at >= window {
		p.recent = append(p.recent[:0], p.recent[1:]...)
	}
	if old := p.recent[0]; at-old.at >= window {
		p.most = max(p.most, (cpu-old.cpu).Seconds()/(at-old.at).Seconds())
		p.full = true
	}
	if at-p.recent[len(p.recent)-1].at >= spacing {
		p.recent = append(p.recent, p.last)
	}
}

// cores returns the peak; of a run that never filled a window, its mean.
func (p *cpuPeak) cores() float64 {
	if p.full {
		return p.most
	}
	return p.last.cpu.Seconds() / max(p.last.at, period).Seconds()
}

// points is a usage series of bounded length: when it is full, neighbours are
// merged and each point covers twice the time.
type points struct {
	list  []point
	width time.Duration // of one point; the last may cover less
}

// point is an interval that ends at at.
type point struct {
	at, cpu      time.Duration
	memory, pids int64
}

// firstWidth is the width of a point until the series is first thinned.
const firstWidth = time.Second

func (p *points) add(next point) {
	if p.width == 0 {
		p.width = firstWidth
	}
	if n := len(p.list); n > 0 && p.slot(p.list[n-1]) == p.slot(next) {
		p.list[n-1] = merge(p.list[n-1], next)
		return
	}
	p.list = append(p.list, next)
	for len(p.list) > workload.MaxSeries {
		p.width *= 2
		p.thin()
	}
}

// slot numbers the interval of one width that the point ends in. Tickers come
// a little late, so the end of an interval is taken generously.
func (p *points) slot(q point) time.Duration {
	return (q.at - firstWidth/2) / p.width
}

func (p *points) thin() {
	kept := p.list[:0]
	for _, next := range p.list {
		if n := len(kept); n > 0 && p.slot(kept[n-1]) == p.slot(next) {
			kept[n-1] = merge(kept[n-1], next)
			continue
		}
		kept = append(kept, next)
	}
	p.list = kept
}

func merge(a, b point) point {
	return point{at: b.at, cpu: a.cpu + b.cpu, memory: max(a.memory, b.memory), pids: max(a.pids, b.pids)}
}

func (p *points) series() []workload.Point {
	if len(p.list) == 0 {
		return nil
	}
	out := make([]workload.Point, len(p.list))
	var start time.Duration
	for i, q := range p.list {
		out[i] = workload.Point{
			Seconds: q.at.Seconds(),
			Memory:  q.memory,
			CPU:     q.cpu.Seconds() / (q.at - start).Seconds(),
			PIDs:    q.pids,
		}
		start = q.at
	}
	return out
}
