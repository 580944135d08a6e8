package cgroup

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/workload"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a sample so many seconds after the start, with CPU in seconds.
func at(seconds float64, cpu float64, memory int64) Sample {
	return Sample{Time: epoch.Add(secs(seconds)), CPU: secs(cpu), Memory: memory, PIDs: 1}
}

func secs(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func usage(samples ...Sample) workload.Usage {
	var s Series
	for _, sample := range samples {
		s.Add(sample)
	}
	return s.Usage()
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6 }

func TestCPU(t *testing.T) {
	exited := at(0.2, 0.7, 0)
	for _, c := range []struct {
		name          string
		samples       []Sample
		seconds, peak float64
	}{
		{"nothing", nil, 0, 0},
		{"runc's init before the first sample is left out", []Sample{at(0, 0.5, 0), at(1, 0.75, 0)}, 0.25, 0.25},
		{"the total is all there is", []Sample{at(0, 0.5, 0)}, 0.5, 0},
		{"the busiest second", []Sample{at(0, 0, 0), at(1, 0.1, 0), at(2, 2.1, 0), at(3, 2.2, 0)}, 2.2, 2},
		{"a part of a second at the end is no peak", []Sample{at(0, 0, 0), at(1, 0.5, 0), at(1.05, 0.6, 0)}, 0.6, 0.6 / 1.05},
		{"shorter than a second: the mean", []Sample{at(0, 0.5, 0), exited}, 0.2, 1},
		{"shorter than a CFS period: over the period", []Sample{at(0, 0, 0), at(0.01, 0.02, 0)}, 0.02, 0.2},
		{"a total that goes back starts anew", []Sample{at(0, 5, 0), at(1, 6, 0), at(2, 0.5, 0), at(3, 1, 0)}, 1.5, 1},
		{"a clock that stands still", []Sample{at(0, 0, 0), at(0, 1, 0), at(1, 2, 0)}, 2, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := usage(c.samples...)
			if !near(u.CPUSeconds, c.seconds) || !near(u.CPUPeak, c.peak) || u.Samples != int64(len(c.samples)) {
				t.Errorf("%v s, peak %v, %d samples; want %v s, peak %v", u.CPUSeconds, u.CPUPeak, u.Samples, c.seconds, c.peak)
			}
		})
	}
}

func TestCPUPeakOfThickSamples(t *testing.T) {
	var s Series
	for i := range 3000 { // 30 s in steps of 10 ms: one core during the tenth second
		busy := min(max(0, float64(i)/100-9), 1)
		s.Add(at(float64(i)/100, busy, 0))
	}
	if u := s.Usage(); u.CPUPeak < 0.95 || u.CPUPeak > 1.05 {
		t.Errorf("peak %v, want about 1", u.CPUPeak)
	}
	if n := len(s.peak.recent); n > 20 {
		t.Errorf("%d marks are kept", n)
	}
}

func TestMemory(t *testing.T) {
	s := func(second float64, working, cache, watermark, pids int64) Sample {
		return Sample{Time: epoch.Add(secs(second)), Memory: working, Cache: cache, MemoryPeak: watermark, PIDs: pids}
	}
	hits := func(s Sample) Sample { s.LimitHits++; return s }
	for _, c := range []struct {
		name       string
		samples    []Sample
		peak, last int64
	}{
		{"samples alone, where there is no watermark", []Sample{s(0, 1, 0, 0, 1), s(1, 7, 0, 0, 1), s(2, 5, 0, 0, 1)}, 7, 5},
		{"a spike between samples counts in full", []Sample{s(0, 1, 0, 1, 1), s(1, 2, 0, 100, 1), s(2, 3, 0, 100, 1)}, 100, 3},
		{"cache that was there all along does not", []Sample{s(0, 1, 0, 1, 1), s(1, 2, 0, 2, 1), s(2, 3, 50, 53, 1), s(3, 3, 80, 83, 1), s(4, 4, 80, 84, 1)}, 4, 4},
		{"nor does cache that was read at the start", []Sample{s(0, 10, 0, 10, 1), s(1, 10, 990, 1000, 1), s(2, 20, 980, 1000, 1)}, 20, 20},
		{"usage a little under its watermark counts up to it", []Sample{s(0, 10, 0, 10, 1), s(1, 10, 980, 1000, 1)}, 20, 10},
		{"cache after a spike is no excuse for the spike", []Sample{s(0, 10, 0, 10, 1), s(1, 10, 900, 1000, 1)}, 1000, 10},
		{"nor when both reached the limit", []Sample{s(0, 10, 0, 10, 1), hits(s(1, 10, 990, 1000, 1))}, 1000, 10},
		{"a run too short for a second sample", []Sample{s(0, 1, 0, 8, 1), s(0.1, 0, 20, 90, 0)}, 90, 1},
		{"only the exit was seen", []Sample{s(0, 2, 20, 90, 0)}, 70, 2},
		{"nobody counts processes", []Sample{s(0, 1, 0, 0, 0), s(1, 9, 0, 0, 0), s(2, 4, 0, 0, 0)}, 9, 4},
		{"gone at the end", []Sample{s(0, 1, 0, 4, 2), s(1, 6, 0, 6, 2), s(2, 0, 0, 6, 0)}, 6, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			if u := usage(c.samples...); u.MemoryPeak != c.peak || u.MemoryLast != c.last {
				t.Errorf("peak %d, last %d; want %d, %d", u.MemoryPeak, u.MemoryLast, c.peak, c.last)
			}
		})
	}
}

func TestTotals(t *testing.T) {
	first, last, back := at(0, 0, 0), at(1, 0, 0), at(2, 0, 0)
	first.OOMKills, first.ReadBytes, first.PIDsPeak = 1, 10, 4
	last.OOMKills, last.LimitHits, last.ReadBytes, last.WriteBytes, last.Throttled, last.PIDs = 3, 5, 30, 7, time.Second, 6
	back.WriteBytes = 2 // the rest reads as zero
	u := usage(first, last, back)
	want := workload.Usage{OOMKills: 3, MemoryFail: 5, ReadBytes: 30, WriteBytes: 7, Throttled: 1, PIDsPeak: 6, Samples: 3}
	want.Series = u.Series
	if u.OOMKills != want.OOMKills || u.MemoryFail != want.MemoryFail || u.ReadBytes != want.ReadBytes ||
		u.WriteBytes != want.WriteBytes || u.Throttled != want.Throttled || u.PIDsPeak != want.PIDsPeak {
		t.Errorf("got  %+v\nwant %+v", u, want)
	}
}

// TestSeriesOfAnyLength: whatever the number and spacing of samples, a series
// is bounded, in order, covers the run, keeps the maxima and loses no CPU time.
func TestSeriesOfAnyLength(t *testing.T) {
	for _, n := range []int{0, 1, 2, 63, 64, 65, 66, 128, 129, 1000, 86400} {
		for _, jitter := range []float64{0, 0.4} {
			r := rand.New(rand.NewPCG(uint64(n), 7))
			var s Series
			s.Add(at(0, 0, 1))
			var end, cpu float64
			var memory, pids int64
			for i := range n {
				end = float64(i+1) + jitter*(r.Float64()-0.5)
				cpu += r.Float64()
				sample := at(end, cpu, r.Int64N(1000))
				sample.PIDs = r.Int64N(50) + 1
				memory, pids = max(memory, sample.Memory), max(pids, sample.PIDs)
				s.Add(sample)
			}
			checkSeries(t, s.Usage(), end, cpu, memory, pids)
			if wantLen := min(n, workload.MaxSeries/2); len(s.Usage().Series) < wantLen {
				t.Errorf("%d samples became %d points", n, len(s.Usage().Series))
			}
		}
	}
}

func checkSeries(t *testing.T, u workload.Usage, end, cpu float64, memory, pids int64) {
	t.Helper()
	if len(u.Series) > workload.MaxSeries {
		t.Fatalf("%d points, the most is %d", len(u.Series), workload.MaxSeries)
	}
	var before, total float64
	var mem, procs int64
	for _, p := range u.Series {
		if p.Seconds <= before {
			t.Fatalf("a point at %v s after one at %v s", p.Seconds, before)
		}
		total += p.CPU * (p.Seconds - before)
		before = p.Seconds
		mem, procs = max(mem, p.Memory), max(procs, p.PIDs)
	}
	if math.Abs(before-end) > 1e-6 || mem != memory || procs != pids || math.Abs(total-cpu) > 1e-3 {
		t.Errorf("series of %d points ends at %v s with maxima %d, %d and %v s of CPU; want %v s, %d, %d, %v s",
			len(u.Series), before, mem, procs, total, end, memory, pids, cpu)
	}
}

func TestThinningIsEven(t *testing.T) {
	var s Series
	for i := range 10001 {
		s.Add(at(float64(i)*1.002, float64(i), 0))
	}
	points := s.Usage().Series
	width := points[1].Seconds - points[0].Seconds
	for i := 1; i < len(points)-1; i++ {
		if d := points[i].Seconds - points[i-1].Seconds; math.Abs(d-width) > 1.1 {
			t.Errorf("point %d covers %v s, others %v s", i, d, width)
		}
	}
}
