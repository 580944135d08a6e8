package foresight

import (
	"os"
	"path/filepath"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/exploited"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// A site's files of what is exploited rate a scan's vulnerabilities, also above what the scanner said; the model rates the rest.
func TestRate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kev.txt")
	if err := os.WriteFile(file, []byte("CVE-2024-0001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	book := exploited.NewBook([]string{file})
	if _, err := book.Reload(); err != nil {
		t.Fatal(err)
	}
	scan := evidence.Scan{Vulnerabilities: []evidence.Vulnerability{
		{ID: "CVE-2024-0001", Severity: 5, Exploited: 0.01, Reachable: true}, {ID: "CVE-2024-0002", Severity: 9.8}, {ID: "CVE-2024-0003", Exploited: 0.3},
	}}
	Rate(&scan, book)
	v := scan.Vulnerabilities
	if v[0].Exploited < 0.9 || v[0].ExploitedBy != "kev.txt" || v[1].Exploited <= 0 || v[1].ExploitedBy != "" || v[2].Exploited != 0.3 {
		t.Errorf("%+v", v)
	}
	if r := Assess(Known{Request: &api.AdmitRequest{}, Scan: &scan}); r.Score < 30 {
		t.Errorf("the risk of one that is exploited is %.1f", r.Score)
	}
}
