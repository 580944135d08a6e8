package nodeload

import (
	"fmt"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/policy"
)

// The shares from which a resource is short. A processor that is busy is no fault; one for which tasks queue is, so
// pressure counts beside use (the kernel's some avg10: a share of time in which somebody waited).
const (
	tightCPU      = 0.85
	tightMemory   = 0.90
	tightNetwork  = 0.80 // of the links' speed, in one direction
	pressedCPU    = 0.40
	pressedMemory = 0.10
	pressedIO     = 0.30
)

// summarize turns readings, oldest first and at least one, into a load.
func summarize(ring []reading, pressure [3]float64) evidence.Load {
	first, last := ring[0], ring[len(ring)-1]
	l := evidence.Load{
		Time: last.at, Cores: last.cpu.cores, MemoryFree: last.available,
		Memory:      1 - float64(last.available)/float64(last.total),
		PressureCPU: pressure[0], PressureMemory: pressure[1], PressureIO: pressure[2],
	}
	if total := last.cpu.total - first.cpu.total; total > 0 && last.cpu.busy >= first.cpu.busy {
		l.CPU = min(float64(last.cpu.busy-first.cpu.busy)/float64(total), 1)
	}
	seconds := last.at.Sub(first.at).Seconds()
	if seconds > 0 && first.counted == last.counted && last.received >= first.received && last.sent >= first.sent {
		l.Receive = float64(last.received-first.received) / seconds
		l.Transmit = float64(last.sent-first.sent) / seconds
	}
	return l
}

// tight names what is short, and why; nil: nothing. speed is the links' in bytes/s, 0: unknown.
func tight(l evidence.Load, speed float64) map[string]string {
	var out map[string]string
	say := func(resource, format string, args ...any) {
		if out == nil {
			out = make(map[string]string)
		}
		if out[resource] == "" {
			out[resource] = fmt.Sprintf(format, args...)
		}
	}
	percent := func(share float64) float64 { return 100 * share }
	if l.CPU >= tightCPU {
		say("cpu", "%.0f %% of %d processors in use over the last minute", percent(l.CPU), l.Cores)
	}
	if l.PressureCPU >= pressedCPU {
		say("cpu", "in %.0f %% of the time some task waits for a processor", percent(l.PressureCPU))
	}
	if l.Memory >= tightMemory {
		say("memory", "%.0f %% in use, %s can be had", percent(l.Memory), policy.KeyMemory.Format(policy.Value(l.MemoryFree)))
	}
	if l.PressureMemory >= pressedMemory {
		say("memory", "in %.0f %% of the time some task waits for memory", percent(l.PressureMemory))
	}
	if l.PressureIO >= pressedIO {
		say("io", "in %.0f %% of the time some task waits for a disk", percent(l.PressureIO))
	}
	if busy := max(l.Receive, l.Transmit); speed > 0 && busy >= tightNetwork*speed {
		say("network", "%.0f %% of the links' %.3g Gbit/s in use over the last minute", percent(busy/speed), speed*8/1e9)
	}
	return out
}
