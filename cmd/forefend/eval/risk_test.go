package eval

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestRecallAt(t *testing.T) {
	for name, c := range map[string]struct {
		negative, positive []float64
		part, want         float64
	}{
		"first":           {[]float64{1, 2, 3}, []float64{9}, 0.25, 1},
		"last":            {[]float64{1, 2, 3}, []float64{0}, 0.25, 0},
		"half":            {[]float64{5, 4, 3, 2, 1, 0}, []float64{9, -1}, 0.25, 0.5},
		"all the same":    {[]float64{1, 1, 1, 1, 1, 1, 1, 1}, []float64{1, 1}, 0.5, 0.5},
		"tie at the end":  {[]float64{1, 0, 0}, []float64{1}, 0.25, 0.5},
		"less than one":   {make([]float64, 9), []float64{1}, 0.05, 0.5},
		"everything":      {[]float64{1}, []float64{0}, 1, 1},
		"missing is last": {[]float64{2, 1}, []float64{-1, 3}, 0.5, 0.5},
	} {
		if got := recallAt(c.negative, c.positive, c.part); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if !math.IsNaN(recallAt(nil, nil, 1)) {
		t.Error("without positives there is no recall")
	}
}

const riskFeatures = `cve,published,cvss,vector,exploitation,automatable,technical_impact,cwe,in_kev_at_2024_10_24
CVE-2024-0001,2024-01-01,9.8,CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H,none,yes,total,CWE-287|CWE-303,0
CVE-2024-0002,2024-01-01,3.5,CVSS:3.1/AV:N/AC:L/PR:L/UI:R/S:U/C:N/I:L/A:N,poc,no,partial,CWE-79,0
CVE-2024-0003,2024-01-01,,,none,no,partial,,0
CVE-2024-0004,2024-01-01,10,,active,yes,total,,1
`

// Every form of labels gives the same result; what was known before counts in none.
func TestRiskLabels(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	data := write("features.csv", riskFeatures)
	for name, text := range map[string]string{
		"list":      "# exploited\nCVE-2024-0001\ncve-2024-0004\n",
		"csv":       "cve_id,date_added\nCVE-2024-0001,2025-01-01\nCVE-2024-0004,2024-02-01\n",
		"label":     "cve,label\nCVE-2024-0001,1\nCVE-2024-0002,0\nCVE-2024-0003,0\nCVE-2024-0004,1\n",
		"bare":      "CVE-2024-0001,1\nCVE-2024-0002,0\nCVE-2024-0004,1\n",
		"tabs":      "vendor\tcveID\nx\tCVE-2024-0001\ny\tCVE-2024-0004\n",
		"catalogue": `{"title":"x","vulnerabilities":[{"cveID":"CVE-2024-0001"},{"cveID":"CVE-2024-0004"}]}`,
		"json":      `["CVE-2024-0001","CVE-2024-0004"]`,
		"cisa":      "\"cveID\",\"vendorProject\",\"dateAdded\"\n\"CVE-2024-0001\",\"a, b\",\"2025-01-01\"\n\"CVE-2024-0004\",\"c\",\"2024-01-01\"\n",
	} {
		r, err := evaluateRisk(data, write(name, text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Vulnerabilities != 3 || r.Exploited != 1 || r.Known != 1 || r.Unmatched != 1 || r.AUC != 1 || math.Abs(r.Recall-0.15) > 1e-9 {
			t.Errorf("%s: %+v", name, r)
		}
		if b := r.Baselines["ssvc exploitation"]; b.AUC != 0.25 { // below the proof of concept, equal to the other
			t.Errorf("%s: %+v", name, b)
		}
	}
	for name, text := range map[string]string{"empty": "", "nothing": "cve\n", "other": "CVE-2020-0001\n"} {
		if r, err := evaluateRisk(data, write(name, text)); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := evaluateRisk(write("odd", "a,b\n1,2\n"), data); err == nil {
		t.Error("features without ids are read")
	}
}
