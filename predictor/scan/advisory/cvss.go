package advisory

import (
	"strings"

	gocvss20 "github.com/pandatix/go-cvss/20"
	gocvss30 "github.com/pandatix/go-cvss/30"
	gocvss31 "github.com/pandatix/go-cvss/31"
	gocvss40 "github.com/pandatix/go-cvss/40"
)

// Score returns the base score of a CVSS vector of version 2, 3.0, 3.1 or 4.0; ok is false when it is none.
func Score(vector string) (score float64, ok bool) {
	switch {
	case strings.HasPrefix(vector, "CVSS:4.0/"):
		if v, err := gocvss40.ParseVector(vector); err == nil {
			return v.Score(), true
		}
	case strings.HasPrefix(vector, "CVSS:3.1/"):
		if v, err := gocvss31.ParseVector(vector); err == nil {
			return v.BaseScore(), true
		}
	case strings.HasPrefix(vector, "CVSS:3.0/"):
		if v, err := gocvss30.ParseVector(vector); err == nil {
			return v.BaseScore(), true
		}
	default:
		if v, err := gocvss20.ParseVector(strings.Trim(vector, "()")); err == nil {
			return v.BaseScore(), true
		}
	}
	return 0, false
}

// words stand for scores where a database gives no vector: the middle of the range that FIRST gives the word.
var words = map[string]float64{
	"negligible": 1, "low": 2.5, "minor": 2.5, "medium": 5.5, "moderate": 5.5, "important": 8, "high": 8, "critical": 9.5,
}

// rate picks the score: a vector of the package, else of the record, version 3 first because risk models are fitted to it; else a word.
func rate(ofPackage, ofRecord []severity, inWords ...string) (float64, string) {
	for _, list := range [][]severity{ofPackage, ofRecord} {
		for _, kind := range []string{"CVSS_V3", "CVSS_V4", "CVSS_V2"} {
			for _, s := range list {
				if s.Type != kind {
					continue
				}
				if score, ok := Score(s.Score); ok {
					return score, s.Score
				}
			}
		}
		for _, s := range list {
			inWords = append(inWords, s.Score)
		}
	}
	for _, w := range inWords {
		if score, ok := words[strings.ToLower(w)]; ok {
			return score, ""
		}
	}
	return 0, ""
}
