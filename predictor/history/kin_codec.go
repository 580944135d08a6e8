package history

import (
	"forefend.dev/forefend/predictor/estimate"
	"forefend.dev/forefend/runtime/workload"
)

func (w *writer) kinship(k kinship) {
	w.uint(uint64(len(k.traits)))
	for _, t := range k.traits {
		w.string(t.name)
		w.uint(uint64(t.affinity))
		w.uint(t.last)
		w.uint(uint64(len(t.members)))
		for _, m := range t.members {
			w.uint(m.who)
			w.peaks([]peak{m.peak})
			w.uint(uint64(max(m.asked.Memory, 0)))
			w.double(m.asked.CPUs)
			w.uint(uint64(max(m.asked.PIDs, 0)))
		}
	}
}

func (r *reader) kinship() kinship {
	k := newKinship()
	for range r.count(2 * maxTraits) {
		t := &trait{name: r.string(maxTrait), affinity: estimate.Affinity(r.count(int(estimate.SharedWord))), last: r.uint()}
		for range r.count(maxRelated) {
			m := relative{who: r.uint()}
			for kind := range m.peak {
				m.peak[kind] = r.float()
			}
			m.asked = workload.Requested{Memory: int64(r.uint()), CPUs: r.double()}
			m.asked.PIDs = int64(r.uint())
			t.members = append(t.members, m)
		}
		if r.err != nil {
			return newKinship()
		}
		k.traits[t.name] = t
	}
	return k
}
