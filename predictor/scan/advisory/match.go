package advisory

import (
	"cmp"
	"slices"

	"github.com/google/osv-scalibr/semantic"
)

// maxEvents bounds the events of one range that are looked at.
const maxEvents = 1000

// covers tells whether the entry is about version, and the first version that is fixed, if any.
func (e *entry) covers(version string) (fixed string, yes bool) {
	yes = slices.Contains(e.Versions, version)
	v, err := semantic.Parse(version, e.Ecosystem)
	if err != nil {
		return "", yes
	}
	for _, events := range e.Ranges {
		if in, fix := within(v, order(events, e.Ecosystem)); in {
			return fix, true
		}
	}
	return "", yes
}

// fewVersions is how long a list is that somebody may have written; longer ones are the ranges spelled out by a program,
// as OSV does for every ecosystem it can, and comparing each again takes longer than all else.
const fewVersions = 16

// uncovered are those versions that the ranges do not include.
func (e *entry) uncovered(versions []string) []string {
	if len(e.Ranges) == 0 {
		return slices.Clone(versions)
	}
	var ranges [][]step
	for _, events := range e.Ranges {
		if steps := order(events, e.Ecosystem); len(steps) > 0 {
			ranges = append(ranges, steps)
		}
	}
	if len(ranges) == len(e.Ranges) && len(versions) > fewVersions {
		return nil
	}
	var rest []string
	for _, text := range versions {
		v, err := semantic.Parse(text, e.Ecosystem)
		in := func(steps []step) bool { yes, _ := within(v, steps); return yes }
		if err != nil || !slices.ContainsFunc(ranges, in) {
			rest = append(rest, text)
		}
	}
	return rest
}

// step is an event whose place on the line of versions is known.
type step struct {
	at      semantic.Version // nil: before all versions
	text    string
	opens   bool // affected from here on
	through bool // closes after this version, not before it
}

// within walks a range's events in the order of their versions, as the OSV schema's algorithm does.
func within(v semantic.Version, steps []step) (in bool, fixed string) {
	for _, s := range steps {
		c := 1
		if s.at != nil {
			var err error
			if c, err = v.Compare(s.at); err != nil {
				return false, ""
			}
		}
		switch {
		case s.opens && c >= 0:
			in = true
		case !s.opens && !s.through && c >= 0, s.through && c > 0:
			in = false
		case !s.opens && !s.through && in:
			return true, s.text
		case s.opens: // beyond the version
			return in, ""
		}
	}
	return in, ""
}

// order sorts the events by version. Those whose version cannot be read are left out, but then also all that opens:
// half a range must not cover everything.
func order(events []event, ecosystem string) []step {
	var steps []step
	for _, e := range events[:min(len(events), maxEvents)] {
		var s step
		switch {
		case e.Introduced == "0":
			steps = append(steps, step{opens: true})
			continue
		case e.Introduced != "":
			s = step{text: e.Introduced, opens: true}
		case e.Fixed != "":
			s = step{text: e.Fixed}
		case e.LastAffected != "":
			s = step{text: e.LastAffected, through: true}
		case e.Limit != "" && e.Limit != "*":
			s = step{text: e.Limit}
		default:
			continue
		}
		at, err := semantic.Parse(s.text, ecosystem)
		if err != nil {
			return nil
		}
		s.at = at
		steps = append(steps, s)
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		switch {
		case a.at == nil || b.at == nil:
			return cmp.Compare(rank(a.at), rank(b.at))
		default:
			c, err := a.at.Compare(b.at)
			if err != nil {
				return 0
			}
			return c
		}
	})
	return steps
}

func rank(v semantic.Version) int {
	if v == nil {
		return 0
	}
	return 1
}
