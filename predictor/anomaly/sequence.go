package anomaly

import (
	"math"
	"slices"
)

// Bounds of a Sequence.
const (
	sequenceOrder   = 20      // longest context and its successor, in calls
	sequenceWindow  = 160     // calls that are judged together
	sequencePassage = 20      // calls that show how familiar a program is at its most familiar
	strangeProgram  = 2       // nats per call that may be laid to an unknown but honest program
	narrowWeight    = 0.75    // how much it counts that a trace has few kinds of calls
	ownWeight       = 5       // how much a call in the trace itself counts against one in training
	maxSequenceLen  = 1 << 19 // calls kept of all learned traces
	maxTraceLen     = 1 << 16 // calls of one trace that are looked at
	maxNames        = 1 << 12
	alphabetSize    = 350 // about how many calls a kernel has: what an unseen call shares its probability with
	unknownName     = 0   // all names beyond maxNames
	gramHashSeed    = 14695981039346656037
	gramHashPrime   = 1099511628211
	maxTraceNameLen = 64
)

// Sequence is a model of the order of system calls: the probability of the next call given the calls before it, mixed
// over contexts of all lengths up to sequenceOrder-1 by the method of Witten and Bell (1991, "The zero-frequency
// problem", method C), as in prediction by partial matching.
//
// What is surprising is measured in nats, the mean of -log p over a window of calls. Within a trace the model learns from
// the trace itself as well (a second measure), so that a program it has never seen stops to surprise when it merely repeats itself.
type Sequence struct {
	ids    map[string]uint16
	names  []string
	grams  map[uint64]gram
	traces [][]uint16 // what was learned, oldest first: the state
	length int        // of traces together
	kinds  []int      // of calls in each of traces, fewest first
}

// gram is what is known of one run of calls.
type gram struct {
	seen  uint32 // how often it occurred
	next  uint32 // how often another call followed
	kinds uint32 // how many different ones did
}

// NewSequence returns a model that knows nothing.
func NewSequence() *Sequence {
	return &Sequence{ids: make(map[string]uint16), names: []string{""}, grams: make(map[uint64]gram)}
}

// Learn takes a trace of one process, call names in order, as normal. Beyond its bounds the oldest traces are forgotten
// when the model is restored.
func (s *Sequence) Learn(trace []string) {
	if len(trace) > maxTraceLen {
		trace = trace[:maxTraceLen]
	}
	if len(trace) == 0 {
		return
	}
	s.learn(s.intern(trace))
}

func (s *Sequence) learn(calls []uint16) {
	count(s.grams, calls, nil)
	s.traces = append(s.traces, calls)
	s.length += len(calls)
	s.countKinds(calls)
	if s.length > maxSequenceLen {
		s.forget(maxSequenceLen / 2)
	}
}

// forget drops the oldest traces until so many calls are left, and counts the rest anew.
func (s *Sequence) forget(calls int) {
	for s.length > calls && len(s.traces) > 1 {
		s.length -= len(s.traces[0])
		s.traces = s.traces[1:]
	}
	s.traces = slices.Clone(s.traces)
	s.grams, s.kinds = make(map[uint64]gram), nil
	for _, t := range s.traces {
		count(s.grams, t, nil)
		s.countKinds(t)
	}
}

// countKinds notes how many kinds of calls a learned trace has.
func (s *Sequence) countKinds(calls []uint16) {
	k := kindsOf(calls)
	at, _ := slices.BinarySearch(s.kinds, k)
	s.kinds = slices.Insert(s.kinds, at, k)
}

func kindsOf(calls []uint16) int {
	seen := make(map[uint16]struct{})
	for _, c := range calls {
		seen[c] = struct{}{}
	}
	return len(seen)
}

// narrowness is how unusual it is, in nats, for a trace to have so few kinds of calls: the logarithm of the share of learned ones that
// have no more.
func (s *Sequence) narrowness(calls []uint16) float64 {
	below, _ := slices.BinarySearch(s.kinds, kindsOf(calls)+1)
	return math.Log(float64(len(s.kinds)+1) / float64(below+1))
}

// Empty tells whether nothing was learned.
func (s *Sequence) Empty() bool { return len(s.traces) == 0 }

// intern turns names into numbers, learning new ones.
func (s *Sequence) intern(trace []string) []uint16 {
	calls := make([]uint16, len(trace))
	for i, name := range trace {
		id, ok := s.ids[name]
		if !ok && len(s.names) < maxNames && len(name) <= maxTraceNameLen {
			id = uint16(len(s.names))
			s.ids[name], s.names = id, append(s.names, name)
		}
		calls[i] = id
	}
	return calls
}

// resolve turns names into numbers. Names that were never learned get numbers above the learned ones, each its own.
func (s *Sequence) resolve(trace []string) []uint16 {
	calls := make([]uint16, len(trace))
	var fresh map[string]uint16
	for i, name := range trace {
		id, ok := s.ids[name]
		if !ok {
			if fresh == nil {
				fresh = make(map[string]uint16)
			}
			if id, ok = fresh[name]; !ok {
				id = uint16(len(s.names) + len(fresh)%maxNames)
				fresh[name] = id
			}
		}
		calls[i] = id
	}
	return calls
}

// gramKey extends the key of a run of calls by one at its older end.
func gramKey(key uint64, call uint16) uint64 {
	key = (key ^ uint64(call+1)) * gramHashPrime
	return key ^ key>>29
}

// count adds the runs that end at each call to grams. known, if any, is a larger collection: a successor that it knows
// is no new kind.
func count(grams map[uint64]gram, calls []uint16, known map[uint64]gram) {
	for i := range calls {
		countAt(grams, calls, i, known)
	}
}

func countAt(grams map[uint64]gram, calls []uint16, i int, known map[uint64]gram) {
	for n := 0; n < sequenceOrder && n <= i; n++ {
		context, whole := keysAt(calls, i, n)
		g := grams[whole]
		first := g.seen == 0 && known[whole].seen == 0
		g.seen++
		grams[whole] = g
		c := grams[context]
		c.next++
		if first {
			c.kinds++
		}
		grams[context] = c
	}
}

// keysAt returns the keys of the n calls before i, and of those and call i.
func keysAt(calls []uint16, i, n int) (context, whole uint64) {
	context = gramHashSeed + uint64(n)
	for j := i - n; j < i; j++ {
		context = gramKey(context, calls[j])
	}
	whole = gramHashSeed + uint64(n) + 1
	for j := i - n; j <= i; j++ {
		whole = gramKey(whole, calls[j])
	}
	return context, whole
}

// surprise returns -log p of each call of the trace, twice: by what was learned alone, and with what the trace itself did
// before.
func (s *Sequence) surprise(calls []uint16) (learned, adapted []float64) {
	own := make(map[uint64]gram)
	learned, adapted = make([]float64, len(calls)), make([]float64, len(calls))
	for i := range calls {
		p, q := 1.0/alphabetSize, 1.0/alphabetSize
		known := true // so far, the context in training
		for n := 0; n < sequenceOrder && n <= i; n++ {
			context, whole := keysAt(calls, i, n)
			c, o := s.grams[context], own[context]
			if c.next == 0 && o.next == 0 {
				break
			}
			seen := float64(s.grams[whole].seen)
			if known = known && c.next > 0; known {
				p = (seen + float64(c.kinds)*p) / float64(c.next+c.kinds)
			}
			kinds := float64(c.kinds + o.kinds)
			q = (seen + ownWeight*float64(own[whole].seen) + kinds*q) / (float64(c.next) + ownWeight*float64(o.next) + kinds)
		}
		learned[i], adapted[i] = -math.Log(p), -math.Log(q)
		countAt(own, calls, i, s.grams)
	}
	return learned, adapted
}

// Score says how surprising the calls of one process are, in nats per call; 0 for an empty trace. It is the sum of both kinds of surprise in
// the trace's most familiar window: a program that does normal things begins, loads and ends like others, however unusual its work;
// code that came from elsewhere is unusual throughout. What is strange in even the most familiar
// passage counts less, up to strangeProgram: it tells of a program that training lacks. Code from elsewhere also makes fewer kinds of calls
// than a program does from its start to its end, which counts narrowWeight.
func (s *Sequence) Score(trace []string) float64 {
	if len(trace) > maxTraceLen {
		trace = trace[:maxTraceLen]
	}
	if len(trace) == 0 {
		return 0
	}
	calls := s.resolve(trace)
	learned, both := s.surprise(calls)
	for i, l := range learned {
		both[i] += l
	}
	strange := min(slices.Min(windowMeans(learned, sequencePassage)), strangeProgram)
	return slices.Min(windowMeans(both, sequenceWindow)) - strange + narrowWeight*s.narrowness(calls)
}

// dull tells whether a trace teaches nothing, since its calls are as good as known.
func (s *Sequence) dull(trace []string) bool {
	const known = 0.2 // nats per call
	learned, _ := s.surprise(s.resolve(trace))
	return windowMeans(learned, len(learned))[0] < known
}

// windowMeans returns the mean of every window of so many values, or of all when there are fewer.
func windowMeans(values []float64, window int) []float64 {
	var means []float64
	sum := 0.0
	for i, v := range values {
		sum += v
		if i >= window {
			sum -= values[i-window]
		}
		if i >= window-1 {
			means = append(means, sum/float64(window))
		}
	}
	if len(means) == 0 && len(values) > 0 {
		means = append(means, sum/float64(len(values)))
	}
	return means
}
