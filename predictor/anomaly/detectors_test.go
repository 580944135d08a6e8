package anomaly

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSequenceProbability holds the mixture against one worked out by hand: after "a b a b", with no context a is
// 2 of 4 calls of 2 kinds, (2 + 2/350)/6; after b it is 1 of 1, mixed with that: (1 + that)/2; after a b the same again; no context of
// three calls was followed by anything.
func TestSequenceProbability(t *testing.T) {
	s := NewSequence()
	s.Learn([]string{"a", "b", "a", "b"})
	learned, _ := s.surprise(s.resolve([]string{"a", "b", "a"}))
	p := (2 + 2.0/alphabetSize) / 6
	p = (1 + p) / 2
	p = (1 + p) / 2
	if got := math.Exp(-learned[2]); math.Abs(got-p) > 1e-12 {
		t.Errorf("got %v, want %v", got, p)
	}
}

func TestSequenceTellsOrder(t *testing.T) {
	s := NewSequence()
	normal := strings.Fields(strings.Repeat("accept read open fstat write close ", 40))
	for range 5 {
		s.Learn(normal)
	}
	shuffled := append([]string(nil), normal...)
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	var fresh []string
	for i := range 200 {
		fresh = append(fresh, fmt.Sprint("call", i%60))
	}
	a, b, c := s.Score(normal), s.Score(shuffled), s.Score(fresh)
	if !(a < 0.5 && b > 4*a && c > b) {
		t.Errorf("normal %.2f, shuffled %.2f, unknown calls %.2f", a, b, c)
	}
	if s.Score(nil) != 0 || NewSequence().Score(normal[:1]) <= 0 {
		t.Error("an empty trace is no surprise, an empty model is always surprised")
	}
}

// Of three learned traces one has two kinds of calls, two have three.
func TestSequenceNarrowness(t *testing.T) {
	s := NewSequence()
	for _, trace := range []string{"a b a b", "a b c a", "b c d b"} {
		s.Learn(strings.Fields(trace))
	}
	for trace, want := range map[string]float64{"a": math.Log(4), "a b": math.Log(2), "x y a": 0, "a b c d e": 0} {
		if got := s.narrowness(s.resolve(strings.Fields(trace))); math.Abs(got-want) > 1e-12 {
			t.Errorf("%s: %v, want %v", trace, got, want)
		}
	}
	if s.forget(8); !slices.Equal(s.kinds, []int{3, 3}) {
		t.Errorf("kinds of the traces that are left: %v", s.kinds)
	}
	if got := NewSequence().narrowness(nil); got != 0 {
		t.Errorf("%v from nothing", got)
	}
}

// Of calls that were never seen a part is laid to a program that training lacks; of known ones in an order that was not, after a known passage, nothing is.
func TestSequenceOfAnUnknownProgram(t *testing.T) {
	s := NewSequence()
	known := strings.Fields(strings.Repeat("accept read open fstat write close ", 40))
	s.Learn(known)
	var strange []string
	for i := range 2 * sequenceWindow {
		strange = append(strange, fmt.Sprint("call", i))
	}
	learned, adapted := s.surprise(s.resolve(strange))
	want := learned[len(strange)-1] + slices.Min(windowMeans(adapted, sequenceWindow)) - strangeProgram
	if got := s.Score(strange); math.Abs(got-want) > 1e-9 {
		t.Errorf("nothing known: %v, want %v", got, want)
	}
	mixed := append(slices.Clone(known[:20]), strange[:sequenceWindow-20]...)
	learned, adapted = s.surprise(s.resolve(mixed))
	want = windowMeans(learned, len(mixed))[0] + windowMeans(adapted, len(mixed))[0]
	if got := s.Score(mixed); math.Abs(got-want) > 0.1 {
		t.Errorf("after a known passage: %v, want about %v", got, want)
	}
}

func TestSequenceForgetsTheOldest(t *testing.T) {
	s := NewSequence()
	old, young := strings.Fields(strings.Repeat("a b ", 100)), strings.Fields(strings.Repeat("c d ", 100))
	s.Learn(old)
	s.Learn(young)
	s.forget(200)
	if s.length != 200 || len(s.traces) != 1 || s.Score(young) > 0.2 || s.Score(old) < 1 {
		t.Errorf("%d calls in %d traces: %v, %v", s.length, len(s.traces), s.Score(young), s.Score(old))
	}
}

// TestTailThreshold knows the truth: scores are exponential, one a minute, so the one exceeded once in ten hours is ln 600.
func TestTailThreshold(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var sum float64
	const tries = 200
	for range tries {
		var tail Tail
		for range 300 {
			tail.Add(1.0/60, r.ExpFloat64())
		}
		sum += tail.Threshold(0.1)
	}
	if got, want := sum/tries, math.Log(600); math.Abs(got-want) > 0.15*want {
		t.Errorf("on average %v, want %v", got, want)
	}
}

func TestTailEdges(t *testing.T) {
	var tail Tail
	if !math.IsInf(tail.Threshold(1), 1) {
		t.Error("nothing seen: nothing alarms")
	}
	tail.Add(math.Inf(1), math.NaN(), math.Inf(-1))
	tail.Add(-1)
	if tail.Hours() != 0 || len(tail.top) != 0 {
		t.Errorf("%+v", tail)
	}
	tail.Add(0.5, 3)
	if got := tail.Threshold(1); got != 3 {
		t.Errorf("of one score %v", got)
	}
	tail.Add(0, 3, 3, 3)
	if got := tail.Threshold(1); got != 3 {
		t.Errorf("of equal scores %v", got)
	}
	for i := range 10 * tailKept {
		tail.Add(1, float64(i))
	}
	if len(tail.top) != tailKept || tail.top[0] != 9*tailKept {
		t.Errorf("%d kept from %v", len(tail.top), tail.top[0])
	}
}

func TestNovelty(t *testing.T) {
	n := NewDestinations()
	for range 10 {
		n.Learn(1, []string{"tcp/10.0.0.1:5432"})
	}
	for value, level := range map[string]string{
		"tcp/10.0.0.1:5432": "", "tcp/10.0.0.2:5432": "tcp/10.0.0.2:5432", "tcp/192.0.2.1:22": "tcp/192.0.2.1:22",
	} {
		score, got := n.Score(value)
		if got != level || (score > NoveltyThreshold) != (level != "") {
			t.Errorf("%s: %v at %q", value, score, got)
		}
	}
	if score, _ := n.Score("tcp/192.0.2.1:22"); math.Abs(score-math.Log(10)) > 1e-12 { // one in ten hours
		t.Errorf("score %v", score)
	}
	// A crawler: exact destinations are always new, its ports are not.
	crawler := NewDestinations()
	for i := range 20 {
		crawler.Learn(1, []string{fmt.Sprintf("tcp/10.%d.1.1:443", i), fmt.Sprintf("tcp/10.%d.1.2:443", i)})
	}
	if score, _ := crawler.Score("tcp/10.200.1.1:443"); score > NoveltyThreshold {
		t.Errorf("a crawler's next page: %v", score)
	}
	if score, level := crawler.Score("tcp/10.200.1.1:4444"); score <= NoveltyThreshold || level != "tcp:4444" {
		t.Errorf("a crawler's new port: %v at %q", score, level)
	}
	if score, _ := NewPrograms().Score("/bin/sh"); score > NoveltyThreshold {
		t.Errorf("nothing is known: %v", score)
	}
}

func TestNoveltyIsBounded(t *testing.T) {
	n := NewPrograms()
	for i := range 2 * maxNoveltyKeys {
		n.Learn(1, []string{fmt.Sprintf("/bin/%d", i)})
	}
	if len(n.known) != maxNoveltyKeys || !n.full {
		t.Errorf("%d kept, full %v", len(n.known), n.full)
	}
	if score, _ := n.Score("/bin/never"); score > NoveltyThreshold {
		t.Errorf("what may have been forgotten is no alarm: %v", score)
	}
}

// minutes are rows of a server under varying load.
func minutes(n int, seed uint64) []Row {
	r := rand.New(rand.NewPCG(seed, 9))
	rows := make([]Row, n*segmentRows)
	for i := range rows {
		if requests := r.IntN(20); requests > 0 {
			rows[i] = Row{"accept": requests, "read": 2 * requests, "open": requests, "write": requests, "close": requests}
		}
	}
	return rows
}

// alarms plays rows and returns the rows above the threshold.
func alarms(m *Mix, rows []Row) []int {
	s := m.Stream()
	var found []int
	for i, r := range rows {
		if score, _ := s.Add(r); score > 1 {
			found = append(found, i)
		}
	}
	return found
}

func TestMix(t *testing.T) {
	m := NewMix()
	if len(alarms(m, []Row{{"execve": 1}})) != 0 || !m.Empty() {
		t.Error("nothing is known: nothing alarms")
	}
	m.Learn(minutes(12, 1))
	if got := alarms(m, minutes(30, 2)); len(got) > 0 {
		t.Errorf("half an hour of the same: alarms at %v", got)
	}
	shell := minutes(2, 3)
	shell[700] = Row{"execve": 1, "dup2": 3, "socket": 1, "connect": 1}
	if got := alarms(m, shell); len(got) == 0 || got[0] != 700 {
		t.Errorf("a shell: alarms at %v", got)
	}
	unread := minutes(2, 4)
	for i := 700; i < 760; i++ {
		unread[i] = Row{"accept": 10, "read": 0, "open": 10, "write": 40, "close": 10}
	}
	if got := alarms(m, unread); len(got) == 0 || got[0] < 700 || got[0] > 730 {
		t.Errorf("writes without reads: alarms at %v", got)
	}
	leak := minutes(2, 4)
	for i := 700; i < 760; i++ {
		leak[i] = Row{"accept": 10, "read": 20, "open": 10, "write": 11, "close": 10}
	}
	if got := alarms(m, leak); len(got) == 0 || got[0] < 700 || got[0] > 730 {
		t.Errorf("a tenth more writes than belong to the reads: alarms at %v", got)
	}
	errand := minutes(2, 5)
	errand[700] = Row{"mkdir": 1, "rename": 2, "fsync": 1}
	if got := alarms(m, errand); len(got) > 0 {
		t.Errorf("a first rotation of a log: alarms at %v", got)
	}
}

func TestMixForgets(t *testing.T) {
	m := NewMix()
	for i := range 3 {
		m.Learn(minutes(maxSegments, uint64(i)))
	}
	m.Learn(make([]Row, 5*segmentRows)) // minutes of silence
	if len(m.segments) != maxSegments {
		t.Errorf("%d segments", len(m.segments))
	}
}
