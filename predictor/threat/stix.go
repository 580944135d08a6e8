package threat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// confidenceSTIX is the belief in an indicator that states none (STIX 2.1, section 3.2: then it is unspecified).
const confidenceSTIX = 0.6

// maxObjects bounds a bundle.
const maxObjects = 1_000_000

// stixObject is what is read of an object of a bundle; relationships, malware and so on are skipped.
type stixObject struct {
	Type        string   `json:"type"`
	ID          string   `json:"id"`
	Pattern     string   `json:"pattern"`
	PatternType string   `json:"pattern_type"`
	ValidFrom   string   `json:"valid_from"`
	ValidUntil  string   `json:"valid_until"`
	Modified    string   `json:"modified"`
	Confidence  *float64 `json:"confidence"`
	Revoked     bool     `json:"revoked"`
	Types       []string `json:"indicator_types"`
}

// readSTIX reads a STIX 2.1 bundle (OASIS, 10 June 2021), one object at a time. The line of what it lists is the number
// of the object, from 1. Anything after damage in the JSON is lost, so a damaged bundle is not used at all.
func (s *source) readSTIX(r io.Reader) {
	d := json.NewDecoder(r)
	if err := s.intoObjects(d); err != nil {
		s.fail(0, "is no STIX bundle: %v", err)
		return
	}
	for n := 1; d.More() && !s.fatal; n++ {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			s.fail(n, "is no STIX bundle any more: %v", err)
			return
		}
		if n > maxObjects {
			s.fail(n, "has more than %d objects; split it", maxObjects)
			return
		}
		var o stixObject
		if err := json.Unmarshal(raw, &o); err != nil {
			s.problem(n, "object has fields of other types than STIX gives them: %v", err)
			continue
		}
		if o.Type == "indicator" {
			s.indicator(n, &o)
		}
	}
	if s.fatal {
		return
	}
	if _, err := d.Token(); err != nil {
		s.fail(0, "ends inside the bundle: %v", err)
	}
}

// intoObjects reads up to the list of objects: of a bundle, or a list without one.
func (s *source) intoObjects(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t == json.Delim('[') {
		return nil
	}
	if t != json.Delim('{') {
		return errors.New("it begins with neither { nor [")
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return err
		}
		if k == "objects" {
			if t, err := d.Token(); err != nil || t != json.Delim('[') {
				return errors.New("objects is no list")
			}
			return nil
		}
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			return err
		}
	}
	return errors.New("it has no objects")
}

func (s *source) indicator(n int, o *stixObject) {
	st := statement{line: n, confidence: confidenceSTIX, listed: parseTime(o.ValidFrom), until: parseTime(o.ValidUntil)}
	if modified := parseTime(o.Modified); modified.After(st.listed) {
		st.listed = modified
	}
	if o.Confidence != nil {
		st.confidence = *o.Confidence / 100
	}
	switch {
	case o.Revoked:
		s.feed.Expired++
		return
	case o.PatternType != "" && o.PatternType != "stix":
		s.feed.Ignored++ // snort, yara, sigma: nothing here reads packets or files
		return
	case benign(o.Types):
		s.feed.Ignored++
		return
	}
	all, err := parsePattern(o.Pattern)
	if err != nil {
		s.problem(n, "pattern %.100q: %v", o.Pattern, err)
		return
	}
	for _, c := range all {
		s.conjunction(c, st)
	}
}

// benign tells whether an indicator says that what it describes is harmless.
func benign(types []string) bool {
	for _, t := range types {
		if t == "benign" {
			return true
		}
	}
	return false
}

// conjunction adds what has to be seen together. A part that nothing here observes (a file name, a port, a negation)
// makes the whole unusable: without it the rest would say more than its author did.
func (s *source) conjunction(c conjunction, st statement) {
	var parts []indicator
	for _, a := range c {
		if a.indicator == nil {
			s.feed.Ignored++
			return
		}
		parts = append(parts, *a.indicator)
	}
	switch {
	case len(parts) == 1:
		s.add(parts[0], st)
	case len(s.set.joint) >= MaxJoint:
		s.fail(st.line, "there are more than %d indicators of several parts in all feeds", MaxJoint)
	case !st.until.IsZero() && !s.now.Before(st.until):
		s.feed.Expired++
	default:
		s.set.joint = append(s.set.joint, joint{parts: parts, entry: s.entry(st)})
		s.feed.Joint++
	}
}

// stixTypes are the object paths that say something about a destination, and whether a prefix may stand there.
var stixTypes = map[string]bool{
	"ipv4-addr:value": true, "ipv6-addr:value": true, "domain-name:value": true, "url:value": true,
	"network-traffic:dst_ref.value": true, "hostname:value": true,
	"file:hashes.MD5": true, "file:hashes.'MD5'": true, "file:hashes.'SHA-1'": true, "file:hashes.'SHA-256'": true,
	"file:hashes.SHA1": true, "file:hashes.SHA256": true, "file:hashes.'SHA1'": true, "file:hashes.'SHA256'": true,
	"file:hashes.\"SHA-256\"": true, "file:hashes.'sha256'": true, "file:hashes.'md5'": true,
}

// stixIndicator is the indicator that a comparison lists, or nil.
func stixIndicator(path, value string) *indicator {
	if !stixTypes[path] {
		return nil
	}
	if i, ok := parseIndicator(value); ok {
		return &i
	}
	return nil
}

var errDeep = errors.New("is nested too deeply")

func unexpected(t token) error {
	if t.kind == tokenEnd {
		return errors.New("ends too early")
	}
	return fmt.Errorf("%.40q was not expected there", t.text)
}
