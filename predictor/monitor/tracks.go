package monitor

import (
	"slices"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/forecast"
	"forefend.dev/forefend/runtime/workload"
)

// The resources that are forecast.
const (
	memory = "memory"
	cpu    = "cpu"
	pids   = "pids"
)

// tracks follow the use of resources by one container.
type tracks struct {
	started          time.Time
	memory, cpu, pid *forecast.Track
	upTo             float64 // seconds since the start that have been told
	last             time.Time
	cpuSeconds       float64
}

func newTracks(m *forecast.Model, ceiling Limits, started time.Time) tracks {
	return tracks{
		started: started, last: started,
		memory: m.Track(memory, ceiling.Memory), cpu: m.Track(cpu, ceiling.CPUs), pid: m.Track(pids, ceiling.PIDs),
	}
}

// observe adds what a report says about the time since the last one, and returns the forecasts.
func (t *tracks) observe(o *workload.Observation, l Limits, now time.Time) []evidence.Forecast {
	for _, p := range o.Usage.Series {
		at := t.started.Add(time.Duration(p.Seconds * float64(time.Second)))
		if !(p.Seconds > t.upTo) || at.After(now) {
			continue
		}
		t.upTo = p.Seconds
		t.memory.Add(at, float64(p.Memory))
		t.cpu.Add(at, p.CPU)
		t.pid.Add(at, float64(p.PIDs))
	}
	if o.Usage.MemoryLast > 0 && now.After(t.last) {
		t.memory.Add(now, float64(o.Usage.MemoryLast))
		if len(o.Usage.Series) == 0 {
			t.cpu.Add(now, max(0, o.Usage.CPUSeconds-t.cpuSeconds)/now.Sub(t.last).Seconds())
		}
		t.upTo = max(t.upTo, now.Sub(t.started).Seconds())
	}
	t.last, t.cpuSeconds = now, o.Usage.CPUSeconds
	if o.Final {
		return nil
	}
	return []evidence.Forecast{t.memory.Forecast(now, l.Memory), t.cpu.Forecast(now, l.CPUs), t.pid.Forecast(now, l.PIDs)}
}

// nth is the element that n others are not after; times is reordered.
func nth(times []time.Time, n int) time.Time {
	slices.SortFunc(times, time.Time.Compare)
	return times[min(n, len(times)-1)]
}
