package anomaly

import (
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Bounds of a Novelty.
const (
	maxNoveltyKeys = 1024
	maxNoveltyKey  = 256 // bytes
	// leastExposure is what the shortest run counts as, in hours: a workload of many short runs is known after many runs,
	// not after many hours.
	leastExposure = 0.1
)

// Novelty knows the values of one kind (destinations, programs) that a workload's runs had, at several levels from exact to
// general, and finds a value alarming when values that are new at a level come seldom enough.
//
// How seldom is estimated as by Good (1953): the expected number of new values in the next run is the number of values that
// exactly one run had, over the number of runs; here over the hours of all runs, with one more value so that nothing is
// impossible. A crawler's destinations are always new, and exact ones therefore never alarm; its ports may.
type Novelty struct {
	levels func(value string) []string
	hours  float64
	runs   int
	known  map[string]int // level and value -> runs that had it
	full   bool           // values had to be left out: what is not known may have been seen
}

// NewDestinations returns a Novelty of "protocol/address:port": exact, the port within a network (IPv4 /24, IPv6 /48), the port.
func NewDestinations() *Novelty { return newNovelty(destinationLevels) }

// NewPrograms returns a Novelty of paths: exact, and the directory.
func NewPrograms() *Novelty { return newNovelty(programLevels) }

func newNovelty(levels func(string) []string) *Novelty {
	return &Novelty{levels: levels, known: make(map[string]int)}
}

func destinationLevels(value string) []string {
	levels := []string{"0 " + value}
	protocol, rest, _ := strings.Cut(value, "/")
	to, err := netip.ParseAddrPort(rest)
	if err != nil {
		if colon := strings.LastIndexByte(rest, ':'); colon > 0 { // of a name
			levels = append(levels, "2 "+protocol+rest[colon:])
		}
		return levels
	}
	bits := 24
	if to.Addr().Is6() {
		bits = 48
	}
	port := protocol + value[strings.LastIndexByte(value, ':'):]
	if network, err := to.Addr().WithZone("").Prefix(bits); err == nil {
		levels = append(levels, "1 "+network.String()+" "+port)
	}
	return append(levels, "2 "+port)
}

func programLevels(value string) []string {
	return []string{"0 " + value, "1 " + path.Dir(value)}
}

// Learn takes the values of a run, or of a part of one, as normal.
func (n *Novelty) Learn(hours float64, values []string) {
	n.runs++
	n.hours += max(hours, leastExposure)
	had := make(map[string]bool)
	for _, v := range values {
		if len(v) <= maxNoveltyKey {
			for _, l := range n.levels(v) {
				had[l] = true
			}
		}
	}
	for l := range had {
		if _, ok := n.known[l]; !ok && len(n.known) >= maxNoveltyKeys {
			n.full = true
			continue
		}
		n.known[l]++
	}
}

// Score judges a value that a run shows for the first time: how rare it is that something as new as this comes, as
// -ln of the expected number per hour, and the level at which it is new. Compare with NoveltyThreshold. A known value scores -Inf.
func (n *Novelty) Score(value string) (score float64, level string) {
	score = math.Inf(-1)
	for _, l := range n.levels(value) {
		if _, ok := n.known[l]; ok {
			break // then it is known at all more general levels
		}
		if n.full && l[0] == '0' {
			continue
		}
		if s := -math.Log(n.newPerHour(l[0])); s > score {
			score, level = s, l[2:]
		}
	}
	return score, level
}

// NoveltyThreshold is the score above which new values come less than PerHour times an hour.
var NoveltyThreshold = -math.Log(PerHour)

// newPerHour is the expected number of values an hour that are new at a level.
func (n *Novelty) newPerHour(level byte) float64 {
	once := 1.0
	for l, runs := range n.known {
		if l[0] == level && runs == 1 && n.runs > 1 {
			once++
		}
	}
	return once / max(n.hours, leastExposure)
}

// noveltyState is what a Novelty has learned.
type noveltyState struct {
	Hours float64        `json:"hours"`
	Runs  int            `json:"runs"`
	Known map[string]int `json:"known"`
	Full  bool           `json:"full,omitempty"`
}

func (n *Novelty) state() noveltyState {
	return noveltyState{Hours: n.hours, Runs: n.runs, Known: maps.Clone(n.known), Full: n.full}
}

// restore takes what makes sense of s.
func (n *Novelty) restore(s noveltyState) {
	n.hours, n.runs, n.full = finite(s.Hours), max(s.Runs, 0), s.Full
	n.known = make(map[string]int)
	for _, l := range slices.Sorted(maps.Keys(s.Known)) {
		if len(l) < 3 || len(l) > maxNoveltyKey+16 || s.Known[l] < 1 {
			continue
		}
		if len(n.known) >= maxNoveltyKeys {
			n.full = true
			break
		}
		n.known[l] = s.Known[l]
	}
}

// finite returns a number of a state that may be anything: 0 unless it is a number and not negative.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	return v
}
