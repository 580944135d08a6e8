package threat

import (
	"encoding/csv"
	"strconv"
	"strings"
)

// column names of abuse.ch's exports, by what they hold.
var columns = map[string][]string{
	"value": {"ioc_value", "ioc", "url", "dst_ip", "dstip", "ip", "ip_address", "host", "domain", "sha256_hash", "sha1", "md5_hash", "indicator"},
	"first": {"first_seen_utc", "first_seen", "firstseen", "dateadded", "listingdate", "date"},
	"last":  {"last_seen_utc", "last_online", "last_seen"},
	"conf":  {"confidence_level", "confidence"},
	"state": {"c2_status", "url_status"},
}

// What an entry of abuse.ch is believed by its state, in the absence of a confidence of its own. Trackers list what
// serves malware or commands; offline ones may have been cleaned.
const (
	confidenceOnline  = 0.9
	confidenceOffline = 0.7
)

func isHeader(line string) bool {
	fields := splitCSV(line)
	found := 0
	for _, f := range fields {
		for _, names := range columns {
			for _, n := range names {
				if normal(f) == n {
					found++
				}
			}
		}
	}
	return found >= 2 && len(fields) >= 2
}

func normal(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.Trim(strings.TrimSpace(s), `"`)), " ", "_")
}

// splitCSV splits one line; a line that is not CSV is one field.
func splitCSV(line string) []string {
	r := csv.NewReader(strings.NewReader(line))
	r.LazyQuotes, r.TrimLeadingSpace, r.FieldsPerRecord = true, true, -1
	fields, err := r.Read()
	if err != nil {
		return []string{line}
	}
	return fields
}

// csvReader reads abuse.ch CSV: a header that is often a comment, then rows, quoted or not. Without a header the first
// field that is an indicator counts.
type csvReader struct {
	*source
	at map[string]int // column of each of columns
}

func (c *csvReader) line(line int, text string) {
	if text[0] == '#' || text[0] == ';' {
		if bare := strings.TrimSpace(strings.TrimLeft(text, "#; ")); isHeader(bare) {
			c.header(splitCSV(bare))
		} else {
			c.comment(text)
		}
		return
	}
	if c.at == nil && isHeader(text) {
		c.header(splitCSV(text))
		return
	}
	fields := splitCSV(text)
	st := statement{line: line, confidence: confidenceOnline,
		listed: parseTime(c.field(fields, "last")), until: parseTime("")}
	if st.listed.IsZero() {
		st.listed = parseTime(c.field(fields, "first"))
	}
	if state := strings.ToLower(c.field(fields, "state")); state == "offline" {
		st.confidence = confidenceOffline
	}
	if n, err := strconv.ParseFloat(c.field(fields, "conf"), 64); err == nil && n >= 0 && n <= 100 {
		st.confidence = n / 100
	}
	i, ok := c.indicator(fields)
	if !ok {
		c.problem(line, "has no address, domain, URL or hash")
		return
	}
	c.add(i, st)
}

// header remembers where the columns are. Of several that could hold the value, the first of columns counts: a row
// of ThreatFox has hashes elsewhere, too.
func (c *csvReader) header(fields []string) {
	c.at = map[string]int{}
	for what, names := range columns {
		for _, n := range names {
			for i, f := range fields {
				if _, have := c.at[what]; !have && normal(f) == n {
					c.at[what] = i
				}
			}
		}
	}
}

func (c *csvReader) field(fields []string, what string) string {
	i, ok := c.at[what]
	if !ok || i >= len(fields) {
		return ""
	}
	return strings.Trim(strings.TrimSpace(fields[i]), `"`)
}

func (c *csvReader) indicator(fields []string) (indicator, bool) {
	if _, ok := c.at["value"]; ok {
		return parseIndicator(c.field(fields, "value"))
	}
	for _, f := range fields {
		if i, ok := parseIndicator(strings.Trim(strings.TrimSpace(f), `"`)); ok {
			return i, true
		}
	}
	return indicator{}, false
}
