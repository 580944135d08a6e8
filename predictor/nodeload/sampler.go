package nodeload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

const (
	// Every is the time between two readings. One takes a fifth of a millisecond.
	Every = 5 * time.Second
	// window is how many readings the means are over: a minute's.
	window = 13
	// maxFile bounds one reading of one file; /proc/stat of 4096 processors has half of it.
	maxFile = 1 << 20
)

// reading is the node at one moment.
type reading struct {
	at               time.Time
	cpu              ticks
	total, available int64
	received, sent   uint64
	counted          uint64 // hash of the interfaces' names: their sums compare only when it is the same
}

// Sampler reads the node's load and keeps a minute of it.
type Sampler struct {
	proc, sys string

	mu    sync.Mutex
	ring  []reading     // guarded by mu; oldest first
	load  evidence.Load // guarded by mu; zero before the first reading
	speed float64       // guarded by mu; bytes/s of all links together, 0: not known
}

// New returns a Sampler of the kernel whose proc and sys are mounted there, "/proc" and "/sys" of a node.
func New(proc, sys string) *Sampler { return &Sampler{proc: proc, sys: sys} }

// Run reads at once and then every few seconds until ctx ends. What cannot be read is told to report, once in a row.
func (s *Sampler) Run(ctx context.Context, report func(error)) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	silent := false
	for {
		err := s.Sample(time.Now())
		if err != nil && !silent {
			report(err)
		}
		silent = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Load is the node's load as of the last reading; ok is false before there was one.
func (s *Sampler) Load() (l evidence.Load, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load, !s.load.Time.IsZero() // Tight is made anew with each reading and never written to
}

// Sample takes one reading. Processor and memory have to be readable, the rest may be missing.
func (s *Sampler) Sample(now time.Time) error {
	stat, err1 := s.read("stat")
	meminfo, err2 := s.read("meminfo")
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("read the node's load: %w", err)
	}
	r := reading{at: now}
	if r.cpu, err1 = parseStat(stat); err1 != nil {
		return fmt.Errorf("read the node's load: %w", err1)
	}
	if r.total, r.available, err2 = parseMeminfo(meminfo); err2 != nil {
		return fmt.Errorf("read the node's load: %w", err2)
	}
	speed := s.network(&r)
	pressure := [3]float64{}
	for i, name := range []string{"cpu", "memory", "io"} {
		text, err := s.read("pressure/" + name)
		pressure[i] = unknownShare
		if err == nil {
			pressure[i] = parsePressure(text)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.speed = speed
	if n := len(s.ring); n > 0 && (now.Before(s.ring[n-1].at) || r.cpu.total < s.ring[n-1].cpu.total) {
		s.ring = s.ring[:0] // the clock was set, or this is another kernel's /proc
	}
	if len(s.ring) == window {
		s.ring = append(s.ring[:0], s.ring[1:]...)
	}
	s.ring = append(s.ring, r)
	s.load = summarize(s.ring, pressure)
	s.load.Tight = tight(s.load, s.speed)
	return nil
}

func (s *Sampler) read(name string) ([]byte, error) { return readBounded(filepath.Join(s.proc, name)) }

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// network sums the traffic of the node's own links and returns their speed. Pairs and bridges of containers would count
// the same bytes again; a node that has only such links counts all but loopback.
func (s *Sampler) network(r *reading) (speed float64) {
	text, err := s.read("net/dev")
	if err != nil {
		return 0
	}
	all := parseNetDev(text)
	var links []traffic
	for _, t := range all {
		if _, err := os.Lstat(s.class(t.name, "device")); err == nil && filepath.IsLocal(t.name) {
			links = append(links, t)
		}
	}
	if len(links) == 0 {
		links = all
	}
	for _, t := range links {
		if t.name == "lo" {
			continue
		}
		r.received, r.sent = r.received+t.received, r.sent+t.sentBy
		for _, b := range []byte(t.name) {
			r.counted = (r.counted ^ uint64(b)) * 1099511628211 // FNV-1a's prime
		}
		if text, err := readBounded(s.class(t.name, "speed")); err == nil && filepath.IsLocal(t.name) {
			speed += parseSpeed(text)
		}
	}
	return speed
}

func (s *Sampler) class(link, file string) string {
	return filepath.Join(s.sys, "class", "net", link, file)
}
