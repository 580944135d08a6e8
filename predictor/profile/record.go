package profile

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

const (
	// halfLife is how fast behaviour is forgotten: what somebody did a quarter ago counts for an eighth.
	halfLife = 30 * 24 * time.Hour
	// Trust is that of a stranger until runs speak: so many of them weigh as much as not knowing.
	strangerRuns = 8
	stranger     = 0.5
	// Trust is earned slowly and lost fast: a bad run weighs as much as so many good ones.
	badWeight = 6
	// ratios is how many runs the median of over-asking is of.
	ratios = 32
)

// How bad a run is, 0 to 1, by what happened in it; the parts add up to 1 at most.
const (
	badContact = 1.0  // with a listed address, times the feed's confidence
	badAnomaly = 0.25 // each
	badDenied  = 0.2  // a surprise that was refused may be an honest one
	badOOM     = 0.1
	badFailure = 0.05 // programs end with a status for many reasons
)

// record is what is kept of one user or group.
type record struct {
	Last      time.Time `json:"last"`
	Runs      int       `json:"runs"`
	Denied    int       `json:"denied,omitempty"`
	Anomalies int       `json:"anomalies,omitempty"`
	Contacts  int       `json:"contacts,omitempty"`
	OOMKilled int       `json:"oom,omitempty"`
	Failed    int       `json:"failed,omitempty"`
	Good      float64   `json:"good"` // runs, faded to Last
	Bad       float64   `json:"bad"`
	Asked     []float32 `json:"asked,omitempty"` // newest ratios of asked memory to its peak, oldest first
}

// add counts a run that ended.
func (r *record) add(o *run) {
	end := o.Ended
	if end.Before(r.Last) {
		end = r.Last
	}
	fade := fading(end.Sub(r.Last))
	r.Good, r.Bad, r.Last = r.Good*fade, r.Bad*fade, end
	bad := o.bad()
	r.Good, r.Bad = r.Good+1-bad, r.Bad+bad
	r.Runs++
	count := func(into *int, n int) { *into += n }
	if len(o.Denied) > 0 {
		count(&r.Denied, 1)
	}
	count(&r.Anomalies, len(o.Findings.Anomalies))
	count(&r.Contacts, len(o.Findings.Contacts))
	if o.Usage.OOMKills > 0 {
		count(&r.OOMKilled, 1)
	}
	if o.failed() {
		count(&r.Failed, 1)
	}
	if o.Requested.Memory > 0 && o.Usage.MemoryPeak > 0 {
		if len(r.Asked) == ratios {
			r.Asked = append(r.Asked[:0], r.Asked[1:]...)
		}
		r.Asked = append(r.Asked, float32(float64(o.Requested.Memory)/float64(o.Usage.MemoryPeak)))
	}
}

// fading is how much of what was is left after d.
func fading(d time.Duration) float64 {
	if d <= 0 {
		return 1
	}
	return math.Exp2(-float64(d) / float64(halfLife))
}

// trust is the mean of a beta distribution over runs without fault: prior weighs as much as strangerRuns of them.
func (r *record) trust(prior float64, now time.Time) float64 {
	fade := fading(now.Sub(r.Last))
	good, bad := r.Good*fade, badWeight*r.Bad*fade
	return (good + strangerRuns*prior) / (good + bad + strangerRuns)
}

// overAsking is the median ratio of asked memory to its peak; 0: never asked.
func (r *record) overAsking() float64 {
	if len(r.Asked) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r.Asked))
	n := len(sorted)
	return float64(sorted[(n-1)/2]+sorted[n/2]) / 2
}

// standing is what r says; trust is worked out by who knows what stands above it.
func (r *record) standing(trust float64) evidence.Standing {
	return evidence.Standing{
		Runs: r.Runs, Denied: r.Denied, Anomalies: r.Anomalies, Contacts: r.Contacts, OOMKilled: r.OOMKilled, Failed: r.Failed,
		OverAsking: r.overAsking(), Trust: trust, Why: r.why(),
	}
}

// overAsks is the ratio from which asking for more memory than is used is worth a word.
const overAsks = 2

func (r *record) why() string {
	var faults []string
	for _, f := range []struct {
		n    int
		what string
	}{
		{r.Contacts, "contacts with listed addresses"}, {r.Anomalies, "anomalies"}, {r.Denied, "runs with refused calls"},
		{r.OOMKilled, "runs out of memory"}, {r.Failed, "failed runs"},
	} {
		if f.n > 0 {
			faults = append(faults, fmt.Sprintf("%d %s", f.n, f.what))
		}
	}
	why := fmt.Sprintf("%d runs", r.Runs)
	if r.Runs == 1 {
		why = "1 run"
	}
	why += ", " + cmp.Or(strings.Join(faults, ", "), "none at fault")
	if ratio := r.overAsking(); ratio >= overAsks {
		why += fmt.Sprintf("; asks for %.1f times the memory it uses", ratio)
	}
	return why
}
