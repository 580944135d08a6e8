package advisory

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
)

// records are hand-made, in the schema's form: three ecosystems, the same CVE by two names, and what must not match.
var records = map[string]string{
	"DEBIAN-CVE-2030-1": `{"id":"DEBIAN-CVE-2030-1","upstream":["CVE-2030-1"],
		"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected":[{"package":{"ecosystem":"Debian:12","name":"frobd"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"1:2.4-3+deb12u2"}]}],
		"versions":["1:2.4-3","1:2.4-3+deb12u1","2:odd"]},
		{"package":{"ecosystem":"Debian:13","name":"frobd"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`,
	"DEBIAN-CVE-2030-2": `{"id":"DEBIAN-CVE-2030-2","affected":[{"package":{"ecosystem":"Debian:12","name":"frobd"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}],"ecosystem_specific":{"urgency":"unimportant"}}]}`,
	"PYSEC-2030-7": `{"id":"PYSEC-2030-7","aliases":["CVE-2030-7"],"affected":[{"package":{"ecosystem":"PyPI","name":"Frob.Tool"},
		"ranges":[{"type":"GIT","events":[{"introduced":"0"}]},
		{"type":"ECOSYSTEM","events":[{"fixed":"1.2.1"},{"introduced":"1.0rc1"},{"introduced":"2.0"},{"last_affected":"2.3"}]}]}]}`,
	"GHSA-aaaa": `{"id":"GHSA-aaaa","aliases":["CVE-2030-7"],"database_specific":{"severity":"HIGH","cwe_ids":["CWE-79"]},
		"affected":[{"package":{"ecosystem":"PyPI","name":"frob-tool"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"1.0"},{"fixed":"1.2.1"}]}]}]}`,
	"GONE": `{"id":"GONE","withdrawn":"2030-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"PyPI","name":"frob-tool"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"}]}]}]}`,
	"GHSA-bbbb": `{"id":"GHSA-bbbb","affected":[{"package":{"ecosystem":"npm","name":"@frob/kit"},"versions":["1.0.0","1.0.1"]}]}`,
	"GO-1": `{"id":"GO-1","affected":[{"package":{"ecosystem":"Go","name":"stdlib"},
		"ranges":[{"type":"SEMVER","events":[{"introduced":"1.21.0-0"},{"fixed":"1.21.5"},{"introduced":"1.22.0-0"},{"fixed":"1.22.2"}]}]}]}`,
	"ALPINE-1": `{"id":"ALPINE-1","affected":[{"package":{"ecosystem":"Alpine:v3.20","name":"frob"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"1.2.3-r4"}]}]}]}`,
	"RHSA-1": `{"id":"RHSA-1","affected":[{"package":{"ecosystem":"Red Hat:enterprise_linux:9::baseos","name":"frob"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"0:1.0-5.el9"}]}]}]}`,
	"USN-1": `{"id":"USN-1","severity":[{"type":"Ubuntu","score":"medium"}],
		"affected":[{"package":{"ecosystem":"Ubuntu:22.04:LTS","name":"frob"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"1.0-1ubuntu1"}]}]},
		{"package":{"ecosystem":"Ubuntu:Pro:22.04:LTS","name":"frob"},
		"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"9"}]}]}]}`,
	"ODD": `{"id":"ODD","database_specific":{"severity":7},"affected":[{"package":{"ecosystem":"npm","name":"odd"},
		"ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{},{"fixed":"1.0.0"}]}],"ecosystem_specific":[]}]}`,
}

// layouts are the ways in which records may lie there.
var layouts = map[string]func(t *testing.T, dir string) string{
	"a zip per ecosystem": func(t *testing.T, dir string) string {
		write(t, filepath.Join(dir, "Any", "all.zip"), zipped(t))
		return dir
	},
	"one zip": func(t *testing.T, dir string) string {
		write(t, filepath.Join(dir, "osv.zip"), zipped(t))
		return filepath.Join(dir, "osv.zip")
	},
	"files": func(t *testing.T, dir string) string {
		for id, r := range records {
			write(t, filepath.Join(dir, "osv", id+".json"), []byte(r))
		}
		write(t, filepath.Join(dir, "osv", "broken.json"), []byte(`{"id":`))
		write(t, filepath.Join(dir, "README"), []byte("no record"))
		return dir
	},
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func zipped(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for id, r := range records {
		w, err := z.Create(id + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(r)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestFind(t *testing.T) {
	cases := []struct {
		ecosystem, name, version string
		want                     string // ID fixed score, …
	}{
		{"Debian:12", "frobd", "1:2.4-3", "DEBIAN-CVE-2030-1 1:2.4-3+deb12u2 9.8"},
		{"Debian:12", "frobd", "1:2.4-3+deb12u2", ""},
		{"Debian:12", "frobd", "1:2.4-3+deb12u2~bpo", "DEBIAN-CVE-2030-1 1:2.4-3+deb12u2 9.8"},
		{"Debian:12", "frobd", "3.0-1", "DEBIAN-CVE-2030-1 1:2.4-3+deb12u2 9.8"}, // the epoch decides
		{"Debian:13", "frobd", "2:9", "DEBIAN-CVE-2030-1  9.8"},
		{"Debian:11", "frobd", "1:2.4-3", ""},
		{"Debian:12", "frob", "1:2.4-3", ""},
		{"PyPI", "frob_tool", "1.2", "GHSA-aaaa 1.2.1 8"}, // one flaw, two names
		{"PyPI", "frob-tool", "1.0rc2", "PYSEC-2030-7 1.2.1 0"},
		{"PyPI", "FROB.tool", "1.2.1", ""},
		{"PyPI", "frob-tool", "2.3", "PYSEC-2030-7  0"},
		{"PyPI", "frob-tool", "2.4", ""},
		{"npm", "@frob/kit", "1.0.1", "GHSA-bbbb  0"},
		{"npm", "@frob/kit", "1.0.2", ""},
		{"Go", "stdlib", "1.21.4", "GO-1 1.21.5 0"},
		{"Go", "stdlib", "1.21.6", ""},
		{"Go", "stdlib", "1.22.0", "GO-1 1.22.2 0"},
		{"Alpine:v3.20", "frob", "1.2.3-r3", "ALPINE-1 1.2.3-r4 0"},
		{"Alpine:v3.20", "frob", "1.2.3-r10", ""},
		{"Alpine:v3.19", "frob", "1.2.3-r3", ""},
		{"Red Hat:enterprise_linux:9.4::appstream", "frob", "1.0-4.el9", "RHSA-1 0:1.0-5.el9 0"},
		{"Red Hat:enterprise_linux:8", "frob", "1.0-4.el8", ""},
		{"Ubuntu:22.04", "frob", "1.0-1", "USN-1 1.0-1ubuntu1 5.5"},
		{"Ubuntu:22.04", "frob", "1.0-1ubuntu1", ""},
		{"npm", "odd", "0.9.0", "ODD 1.0.0 0"},
		{"nobody's", "odd", "0.9.0", ""},
	}
	for layout, lay := range layouts {
		x, err := Cached(t.Context(), lay(t, t.TempDir()), t.TempDir())
		if err != nil {
			t.Fatalf("%s: %v", layout, err)
		}
		for _, c := range cases {
			if got := line(x.Find(c.ecosystem, c.name, c.version)); got != c.want {
				t.Errorf("%s: %s %s %s: %q, want %q", layout, c.ecosystem, c.name, c.version, got, c.want)
			}
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
}

func line(all []evidence.Vulnerability) string {
	var parts []string
	for _, v := range all {
		parts = append(parts, fmt.Sprintf("%s %s %.3g", v.ID, v.Fixed, v.Severity))
	}
	return strings.Join(parts, ", ")
}

func TestNamesOfOneFlawAreJoined(t *testing.T) {
	x, err := Cached(t.Context(), layouts["files"](t, t.TempDir()), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	v := x.Find("PyPI", "frob-tool", "1.2")[0]
	if !slices.Contains(v.Aliases, "CVE-2030-7") || !slices.Contains(v.Aliases, "PYSEC-2030-7") || v.CWE[0] != "CWE-79" {
		t.Errorf("%+v", v)
	}
}

func TestVersionsThatRangesCoverAreNotKept(t *testing.T) {
	var r record
	if err := json.Unmarshal([]byte(records["DEBIAN-CVE-2030-1"]), &r); err != nil {
		t.Fatal(err)
	}
	if got := r.entries()[0].Versions; !slices.Equal(got, []string{"2:odd"}) {
		t.Errorf("kept %q", got)
	}
}

func TestCacheFollowsTheRecords(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "a.json"), []byte(records["GO-1"]))
	for i, want := range []int{1, 1, 2} {
		if i == 2 {
			write(t, filepath.Join(dir, "b.json"), []byte(records["GHSA-bbbb"]))
		}
		x, err := Cached(t.Context(), dir, cache)
		if err != nil || x.Len() != want {
			t.Fatalf("time %d: %v, %v; want %d entries", i, x, err, want)
		}
		_ = x.Close()
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "*")); len(left) != 1 {
		t.Errorf("the cache has %q, want the newest index alone", left)
	}
	if _, err := Cached(t.Context(), t.TempDir(), cache); err == nil {
		t.Error("a directory without records gave no error")
	}
}

func TestScore(t *testing.T) { // the figures are those of FIRST's calculators
	for vector, want := range map[string]float64{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H":                    10,
		"CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H":                    7.8,
		"AV:N/AC:L/Au:N/C:P/I:P/A:P":                                      7.5,
		"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N": 9.3,
		"CVSS:3.1/AV:N": -1, "": -1, "medium": -1,
	} {
		got, ok := Score(vector)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%s: %v, want %v", vector, got, want)
		}
	}
}

func TestDamagedIndex(t *testing.T) {
	for _, b := range [][]byte{nil, []byte("short"), make([]byte, 100), append([]byte(magic), bytes.Repeat([]byte{0xff}, 40)...)} {
		path := filepath.Join(t.TempDir(), "x")
		write(t, path, b)
		if _, err := Open(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v, want ErrDamaged", len(b), err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range records {
		f.Add([]byte(r), "1.0")
	}
	f.Fuzz(func(t *testing.T, raw []byte, version string) {
		var r record
		if json.Unmarshal(raw, &r) != nil {
			return
		}
		for _, e := range r.entries() {
			if fixed, yes := e.covers(version); fixed != "" && !yes {
				t.Errorf("%s: fixed in %s but not affected", version, fixed)
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(records["GO-1"]), 0o600); err != nil {
		f.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "x"))
	if err != nil {
		f.Fatal(err)
	}
	defer out.Close()
	if _, err := Build(f.Context(), dir, out); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(out.Name())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, data []byte) {
		if x, err := parse(data); err == nil {
			x.Find("Go", "stdlib", "1.22.0")
		}
	})
}
