package profile

import (
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

// conductFor is how long a workload's conduct is held against it.
const conductFor = 90 * 24 * time.Hour

// conduct is what runs of one workload were caught at.
type conduct struct {
	Last     time.Time         `json:"last"`
	Findings evidence.Findings `json:"findings"`
}

// codeLevels are those whose runs are runs of the same code: what others of a user did says nothing about it.
func codeLevel(l workload.Level) bool { return l <= workload.LevelExecutable }

// behaveLocked keeps the findings of a run under the keys of its code. b.mu is held, or b is not shared yet.
func (b *Book) behaveLocked(o *run) {
	f := evidence.Findings{Anomalies: o.Findings.Anomalies, Contacts: o.Findings.Contacts, Techniques: o.Findings.Techniques}
	if f.Empty() {
		return
	}
	for _, key := range o.Keys {
		if !codeLevel(key.Level) {
			continue
		}
		name := key.String()
		c := b.books.Conducts[name]
		if c == nil {
			forget(b.books.Conducts, maxConducts, func(c *conduct) time.Time { return c.Last })
			c = &conduct{}
			b.books.Conducts[name] = c
		}
		c.Findings = c.Findings.With(f)
		if o.Ended.After(c.Last) {
			c.Last = o.Ended
		}
	}
}

// Past is what earlier runs of the same code were caught at: of the most exact key of which something is known. It has
// no forecasts. The result's slices are not to be written to.
func (b *Book) Past(keys []workload.Key) evidence.Findings {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, key := range keys {
		if !codeLevel(key.Level) {
			break
		}
		if c := b.books.Conducts[key.String()]; c != nil && b.now().Sub(c.Last) < conductFor {
			return c.Findings
		}
	}
	return evidence.Findings{}
}
