package evidence

// MaxFindings bounds each list of Findings: the newest stay.
const MaxFindings = 16

// Findings are what the models made of a running container.
type Findings struct {
	Anomalies  []Anomaly   `json:"anomalies,omitempty"`
	Contacts   []Contact   `json:"contacts,omitempty"`
	Techniques []Technique `json:"techniques,omitempty"`
	Forecasts  []Forecast  `json:"forecasts,omitempty"` // one for each resource
}

// Empty reports whether nothing was found. A forecast is no finding against anybody.
func (f Findings) Empty() bool {
	return len(f.Anomalies)+len(f.Contacts)+len(f.Techniques) == 0
}

// With adds newer findings. A contact or technique that is known already is replaced, so is every forecast of
// the same resource. Neither f nor g is changed.
func (f Findings) With(g Findings) Findings {
	return Findings{
		Anomalies:  newest(append(f.Anomalies[:len(f.Anomalies):len(f.Anomalies)], g.Anomalies...)),
		Contacts:   replaced(f.Contacts, g.Contacts, func(c Contact) string { return c.Destination + "\x00" + c.Feed }),
		Techniques: replaced(f.Techniques, g.Techniques, func(t Technique) string { return t.ID }),
		Forecasts:  replaced(f.Forecasts, g.Forecasts, func(f Forecast) string { return f.Resource }),
	}
}

// Bounded cuts lists that are longer than anything honest, from a file for example.
func (f Findings) Bounded() Findings {
	return Findings{newest(f.Anomalies), newest(f.Contacts), newest(f.Techniques), newest(f.Forecasts)}
}

func newest[V any](list []V) []V { return list[max(0, len(list)-MaxFindings):] }

// replaced joins old and new, oldest first, of which those with the same name as a new one go.
func replaced[V any](old, fresh []V, name func(V) string) []V {
	if len(fresh) == 0 {
		return old
	}
	known := make(map[string]bool, len(fresh))
	for _, v := range fresh {
		known[name(v)] = true
	}
	var out []V
	for _, v := range old {
		if !known[name(v)] {
			out = append(out, v)
		}
	}
	return newest(append(out, fresh...))
}
