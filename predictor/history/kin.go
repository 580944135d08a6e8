package history

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"unicode"

	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

// Bounds of what is remembered of workloads that resemble each other.
const (
	maxTraits   = 20_000 // the longest unheard of are forgotten
	maxRelated  = 16     // workloads of one trait, the newest
	maxTrait    = 96     // bytes
	maxWords    = 4      // of a program's name
	shortestOne = 3      // letters of a word
)

// relative is a workload as its kin see it.
type relative struct {
	who   uint64 // hash of its most exact key
	peak  peak   // the highest of its runs
	asked workload.Requested
}

// trait is something that workloads have in common.
type trait struct {
	name     string
	last     uint64     // the model's count of runs when it was last seen
	members  []relative // the longest unheard of first
	affinity estimate.Affinity
}

// kinship finds workloads by what they have in common. It has no lock.
type kinship struct{ traits map[string]*trait }

func newKinship() kinship { return kinship{traits: make(map[string]*trait)} }

// traitName is a trait without its members.
type traitName struct {
	name     string
	affinity estimate.Affinity
}

// traitsOf lists what a run may have in common with others, closest first. Runs of other programs of
// the same repository, user or group were tried as well: their peaks spread so widely that the bounds were wrong
// (docs/predictor/runs.md).
func traitsOf(q workload.Query) []traitName {
	out := make([]traitName, 0, 10)
	for _, k := range q.Keys {
		if k.Level == workload.LevelExecutable {
			out = append(out, traitName{"exe:" + k.Value, estimate.SameProgram})
		}
	}
	if program := bounded(q.Program); program != "" {
		out = append(out, traitName{"program:" + program, estimate.SameProgram})
	}
	for _, w := range words(q.Program) {
		out = append(out, traitName{"word:" + w, estimate.SharedWord})
	}
	return out
}

func bounded(s string) string { return s[:min(len(s), maxTrait-16)] }

// words are the different words of a name, without digits.
func words(name string) []string {
	var out []string
	for w := range strings.FieldsFuncSeq(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) }) {
		if len(w) >= shortestOne && !slices.Contains(out, w) && len(out) < maxWords {
			out = append(out, bounded(w))
		}
	}
	return out
}

// related tells the workloads that have something in common with a run that ended how high it went.
func (m *model) related(r *run) {
	p := peakOf(&r.obs.Usage)
	if p.empty() || censored(r.obs) {
		return
	}
	who := hashRun(r.obs.Keys[0].String())
	for _, t := range traitsOf(r.obs.Query()) {
		m.kin.meet(t, relative{who, p, r.obs.Requested}, m.runs)
	}
	m.kin.shrink()
}

// meet notes a run of a workload that has a trait.
func (k *kinship) meet(n traitName, r relative, now uint64) {
	t := k.traits[n.name]
	if t == nil {
		t = &trait{name: n.name, affinity: n.affinity}
		k.traits[n.name] = t
	}
	t.last = now
	if i := slices.IndexFunc(t.members, func(m relative) bool { return m.who == r.who }); i >= 0 {
		r.peak = r.peak.highest(t.members[i].peak)
		t.members = slices.Delete(t.members, i, i+1)
	}
	t.members = append(t.members[max(0, len(t.members)-maxRelated+1):], r)
}

// shrink forgets the traits unheard of for longest when there are too many, a sixteenth at a time.
func (k *kinship) shrink() {
	if len(k.traits) <= maxTraits {
		return
	}
	all := slices.SortedFunc(maps.Values(k.traits), func(a, b *trait) int {
		return cmp.Or(cmp.Compare(a.last, b.last), strings.Compare(a.name, b.name))
	})
	for _, t := range all[:len(all)-(maxTraits-maxTraits/16)] {
		delete(k.traits, t.name)
	}
}

// closest is the most telling origin that the kin of a run give for one kind of peak: that
// of the smallest scale.
func (m *model) closest(q workload.Query, traits []traitName, kind int) (best workload.Origin, by string, ok bool) {
	var store [maxRelated]estimate.Peer
	for _, n := range traits {
		t := m.kin.traits[n.name]
		if t == nil {
			continue
		}
		peers := store[:0]
		for _, r := range t.members {
			if r.peak[kind] > 0 && (n.affinity == estimate.SameProgram || alike(r.asked, q.Requested)) {
				peers = append(peers, estimate.Peer{Peak: r.peak[kind], Asked: float32(asked(r.asked, kind))})
			}
		}
		if o, found := m.bounds[kind].Kin(n.affinity, peers, asked(q.Requested, kind)); found && (!ok || o.Scale < best.Scale) {
			best, by, ok = o, n.name, true
		}
	}
	return best, by, ok
}

// alike says whether two users asked for about the same. Programs that share no more than a word of their
// names, or a place, resemble each other only then.
func alike(a, b workload.Requested) bool {
	near := func(x, y float64) bool { return x == y || x > 0 && y > 0 && x < 1.5*y && y < 1.5*x }
	return near(float64(a.Memory), float64(b.Memory)) && near(a.CPUs, b.CPUs)
}

// asked is what was requested of a kind, 0 where nothing can be.
func asked(r workload.Requested, kind int) float64 {
	switch kind {
	case memory:
		return float64(max(r.Memory, 0))
	case cpu:
		return max(r.CPUs, 0)
	case pids:
		return float64(max(r.PIDs, 0))
	}
	return 0
}
