package config

import (
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/predictor/evidence"
)

// Safeguards is what the site does about a container's risk, before it runs and while it does.
type Safeguards struct {
	Levels map[evidence.Level][]evidence.Safeguard // what is weighed at a level; freeze and kill are used where they stand

	CostOfIncident, CostOfBreakage float64 // only their ratio matters

	Live      bool          // a running container's safeguards follow its risk
	Calm      time.Duration // how long nothing may be found before it counts half, and before a safeguard is taken back
	PerMinute int           // changes of one container, at most
}

func defaultSafeguards() Safeguards {
	return Safeguards{
		Levels: evidence.DefaultSafeguards(), CostOfIncident: 10, CostOfBreakage: 1,
		Live: true, Calm: 5 * time.Minute, PerMinute: 3,
	}
}

// maxCost keeps the ratio of two costs a number.
const maxCost = 1e6

func (c *Config) readSafeguards(t *table) {
	s := &c.Safeguards
	for _, level := range evidence.Levels {
		list, given := t.safeguards(string(level))
		if given {
			s.Levels[level] = list
		}
	}
	t.fraction("cost_of_incident", &s.CostOfIncident, 0, maxCost)
	t.fraction("cost_of_breakage", &s.CostOfBreakage, 0, maxCost)
	t.flag("live", &s.Live)
	t.duration("calm", &s.Calm, time.Second, day)
	t.integer("changes_per_minute", &s.PerMinute, 1, 60)
	t.rest()
}

// safeguards reads a list of safeguards, in their order.
func (t *table) safeguards(key string) (list []evidence.Safeguard, given bool) {
	var words []string
	for _, s := range evidence.Safeguards {
		words = append(words, string(s))
	}
	t.strings(key, func(path []string, word string) {
		s := evidence.Safeguard(word)
		switch near := nearest(word, words); {
		case slices.Contains(list, s):
			t.problem(path, "name each once", "%s stands twice", short(word))
		case slices.Contains(words, word):
			list = append(list, s)
		case near != "":
			t.problem(path, "did you mean "+near+"?", "there is no safeguard %s", short(word))
		default:
			t.problem(path, "known here are "+strings.Join(words, ", "), "there is no safeguard %s", short(word))
		}
	})
	_, given = t.values[key]
	slices.SortFunc(list, func(a, b evidence.Safeguard) int {
		return slices.Index(evidence.Safeguards, a) - slices.Index(evidence.Safeguards, b)
	})
	return list, given
}
