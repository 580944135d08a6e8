package eval

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"regexp"
	"strconv"
	"strings"

	"forefend.dev/forefend/predictor/risk"
)

// maxRiskFile bounds a file of features or labels.
const maxRiskFile = 1 << 30

type vulnerability struct {
	risk.Features
	cve string
}

// readFeatures reads a CSV of vulnerabilities; columns are found by name, and one that is missing is not known.
func readFeatures(file string) ([]vulnerability, error) {
	in, err := openData(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	r := csv.NewReader(io.LimitReader(in, maxRiskFile))
	r.FieldsPerRecord, r.LazyQuotes, r.ReuseRecord = -1, true, true
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("features %s: header: %w", file, err)
	}
	at := columnsOf(header)
	if _, ok := at["cve"]; !ok {
		return nil, fmt.Errorf("features %s: no column is called cve", file)
	}
	var out []vulnerability
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("features %s: %w", file, err)
		}
		get := func(name string) string {
			if i, ok := at[name]; ok && i < len(row) {
				return strings.Clone(strings.TrimSpace(row[i]))
			}
			return ""
		}
		score, _ := strconv.ParseFloat(get("cvss"), 64) // empty: not rated
		v := vulnerability{cve: strings.ToUpper(get("cve")), Features: risk.Features{CVSS: score, Vector: get("vector"),
			Exploitation: get("exploitation"), Automatable: get("automatable"), Impact: get("technical_impact"), Known: isTrue(get("in_kev"))}}
		if cwe := get("cwe"); cwe != "" {
			v.CWE = strings.FieldsFunc(cwe, func(r rune) bool { return r == '|' || r == ';' || r == ',' || r == ' ' })
		}
		out = append(out, v)
	}
}

// columnsOf finds columns by their names; in_kev_at_2024_10_24 is in_kev, cve_id and cveID are cve.
func columnsOf(header []string) map[string]int {
	at := map[string]int{}
	for i, name := range header {
		name = strings.ToLower(strings.Trim(strings.TrimSpace(name), "\ufeff\""))
		switch {
		case strings.HasPrefix(name, "in_kev"):
			name = "in_kev"
		case name == "cve_id" || name == "cveid" || name == "id":
			name = "cve"
		case name == "exploited" || name == "kev" || name == "future_kev" || name == "target" || name == "y":
			name = "label"
		}
		if _, ok := at[name]; !ok {
			at[name] = i
		}
	}
	return at
}

func isTrue(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "1", "1.0", "true", "yes", "y":
		return true
	}
	return false
}

var cveID = regexp.MustCompile(`(?i)\bCVE-\d{4}-\d{4,19}\b`)

// readLabels returns the CVE ids that a file calls exploited.
func readLabels(file string) (map[string]bool, error) {
	in, err := openData(file)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, 256<<20))
	if err != nil {
		return nil, fmt.Errorf("labels %s: %w", file, err)
	}
	text := strings.TrimSpace(string(data))
	out := map[string]bool{}
	add := func(s string) {
		if id := cveID.FindString(s); id != "" {
			out[strings.ToUpper(id)] = true
		}
	}
	if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		err = labelsOfJSON([]byte(text), add)
	} else {
		err = labelsOfLines(text, add)
	}
	if err == nil && len(out) == 0 {
		err = errNoLabels
	}
	if err != nil {
		return nil, fmt.Errorf("labels %s: %w", file, err)
	}
	return out, nil
}

// labelsOfJSON reads a list of ids, or CISA's catalogue {"vulnerabilities":[{"cveID":…}]}.
func labelsOfJSON(data []byte, add func(string)) error {
	var ids []string
	if json.Unmarshal(data, &ids) == nil {
		for _, id := range ids {
			add(id)
		}
		return nil
	}
	var catalogue struct {
		Vulnerabilities []struct {
			ID string `json:"cveID"`
		} `json:"vulnerabilities"`
	}
	err := json.Unmarshal(data, &catalogue)
	for _, v := range catalogue.Vulnerabilities {
		add(v.ID)
	}
	return err
}

// labelsOfLines reads ids, one a line, or CSV with a header.
func labelsOfLines(text string, add func(string)) error {
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord, r.LazyQuotes, r.Comment = -1, true, '#'
	if first, _, _ := strings.Cut(text, "\n"); !strings.Contains(first, ",") && strings.Contains(first, "\t") {
		r.Comma = '\t'
	}
	var at map[string]int
	for n := 0; ; n++ {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n == 0 && !cveID.MatchString(strings.Join(row, " ")) {
			at = columnsOf(row)
			continue
		}
		id := 0
		if i, ok := at["cve"]; ok {
			id = i
		}
		label, labelled := at["label"]
		switch {
		case id >= len(row), labelled && (label >= len(row) || !isTrue(row[label])):
		case at == nil && len(row) == 2 && (row[1] == "0" || row[1] == "0.0"):
		default:
			add(row[id])
		}
	}
}

func keysOf[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }
