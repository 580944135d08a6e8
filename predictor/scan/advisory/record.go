package advisory

import (
	"encoding/json"
	"strings"
)

// record is what is read of an OSV record.
type record struct {
	ID        string          `json:"id"`
	Withdrawn json.RawMessage `json:"withdrawn"`
	Aliases   []string        `json:"aliases"`
	Upstream  []string        `json:"upstream"`
	Severity  []severity      `json:"severity"`
	Affected  []affected      `json:"affected"`
	Database  database        `json:"database_specific"`
}

type severity struct {
	Type  string `json:"type"`
	Score string `json:"score"`
}

type affected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Ranges   []versionRange `json:"ranges"`
	Versions []string       `json:"versions"`
	Severity []severity     `json:"severity"`
	// Distributions say here that they do not think it matters, or how much it does.
	Specific database `json:"ecosystem_specific"`
	Database database `json:"database_specific"`
}

type versionRange struct {
	Type   string  `json:"type"`
	Events []event `json:"events"`
}

// event is one of an OSV range's: exactly one field is set.
type event struct {
	Introduced   string `json:"introduced,omitempty"`
	Fixed        string `json:"fixed,omitempty"`
	LastAffected string `json:"last_affected,omitempty"`
	Limit        string `json:"limit,omitempty"`
}

// database is the part of the free-form objects that is commonly there. Fields of another shape are passed over.
type database struct {
	Severity text  `json:"severity"`
	Urgency  text  `json:"urgency"`
	CWE      texts `json:"cwe_ids"`
}

// UnmarshalJSON never fails, as that of text.
func (d *database) UnmarshalJSON(b []byte) error {
	type plain database
	var p plain
	if json.Unmarshal(b, &p) == nil {
		*d = database(p)
	}
	return nil
}

// text is a string, or nothing when it is something else.
type text string

// UnmarshalJSON never fails: databases put what they like into their own objects.
func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*t = text(s)
	}
	return nil
}

// texts is a list of strings, or nothing when it is something else.
type texts []string

// UnmarshalJSON never fails, as that of text.
func (t *texts) UnmarshalJSON(b []byte) error {
	var s []string
	if json.Unmarshal(b, &s) == nil {
		*t = s
	}
	return nil
}

// entry is one affected package of a record, as the index keeps it.
type entry struct {
	ID        string    `json:"i"`
	Aliases   []string  `json:"a,omitempty"`
	Ecosystem string    `json:"e"` // as key has it
	Name      string    `json:"n"`
	Score     float64   `json:"s,omitempty"`
	Vector    string    `json:"v,omitempty"`
	CWE       []string  `json:"c,omitempty"`
	Ranges    [][]event `json:"r,omitempty"`
	Versions  []string  `json:"x,omitempty"` // those that Ranges do not cover
}

// entries takes what matters out of a record. A withdrawn one has none, nor has a package that its distribution calls
// unimportant.
func (r *record) entries() []entry {
	if r.ID == "" || (len(r.Withdrawn) > 0 && string(r.Withdrawn) != "null") {
		return nil
	}
	var all []entry
	for i := range r.Affected {
		a := &r.Affected[i]
		ecosystem, name, ok := key(a.Package.Ecosystem, a.Package.Name)
		if !ok || a.Specific.Urgency == "unimportant" {
			continue
		}
		e := entry{ID: r.ID, Aliases: r.names(), Ecosystem: ecosystem, Name: name, CWE: r.Database.CWE}
		if len(e.CWE) == 0 {
			e.CWE = a.Database.CWE
		}
		e.Score, e.Vector = rate(a.Severity, r.Severity, string(a.Specific.Severity), string(a.Specific.Urgency),
			string(r.Database.Severity), string(a.Database.Severity))
		for _, vr := range a.Ranges {
			if vr.Type != "GIT" && len(vr.Events) > 0 {
				e.Ranges = append(e.Ranges, vr.Events)
			}
		}
		e.Versions = e.uncovered(a.Versions)
		if len(e.Ranges) > 0 || len(e.Versions) > 0 {
			all = append(all, e)
		}
	}
	return all
}

// names are the other identifiers of the same flaw. A distribution's advisory about several is no name of any.
func (r *record) names() []string {
	names := r.Aliases
	if len(r.Upstream) == 1 {
		names = append(names[:len(names):len(names)], r.Upstream[0])
	}
	return names
}

// key brings an ecosystem and a name into the form that both packages and records are indexed by. ok is false for what
// no package of ours can be.
func key(ecosystem, name string) (string, string, bool) {
	base, suffix, _ := strings.Cut(ecosystem, ":")
	switch base {
	case "", "GIT":
		return "", "", false
	case "PyPI":
		name = pythonName(name)
	case "Ubuntu":
		if strings.HasPrefix(suffix, "Pro:") || strings.Contains(suffix, "FIPS") {
			return "", "", false // fixed for paying users: everybody else would seem affected
		}
		ecosystem = strings.TrimSuffix(ecosystem, ":LTS")
	case "Red Hat":
		// A CPE: enterprise_linux:9::baseos. Streams with longer support have their own versions.
		rest, ok := strings.CutPrefix(suffix, "enterprise_linux:")
		if !ok {
			return "", "", false
		}
		major, _, _ := strings.Cut(rest, ":")
		major, _, _ = strings.Cut(major, ".")
		ecosystem = base + ":" + major
	case "Rocky Linux":
		ecosystem = base // its releases have their own version numbers, which the packages' names of release tell apart
	}
	return ecosystem, name, name != ""
}

// pythonName normalises as PEP 503 does.
func pythonName(name string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(name) {
		if r == '-' || r == '_' || r == '.' {
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte('-')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}
