package packages

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/advisory"
	"forefend.dev/forefend/runtime/rootfs"
)

// image writes files, name -> content, and returns their tree. A content that begins with "-> " is a link.
func image(t *testing.T, files map[string]string) rootfs.Tree {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = errors.Join(err, os.Symlink(to, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(content), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return rootfs.Open([]string{root})
}

// debian is an image with a server, a library it loads, one that nothing loads, and packages of two languages.
func debian() map[string]string {
	return map[string]string{
		"etc/os-release": "ID=debian\nVERSION_ID=\"12\"\n",
		"var/lib/dpkg/status": "Package: frobd\nStatus: install ok installed\nVersion: 1:2.4-3\nArchitecture: amd64\n\n" +
			"Package: libfrob1\nStatus: install ok installed\nSource: frob (0.9-1)\nVersion: 0.9-1+b2\nArchitecture: amd64\n\n" +
			"Package: idle\nStatus: install ok installed\nVersion: 1.0-1\n\n" +
			"Package: gone\nStatus: deinstall ok config-files\nVersion: 1.0-1\n",
		"var/lib/dpkg/info/frobd.list":                                            "/.\n/usr\n/usr/sbin/frobd\n",
		"var/lib/dpkg/info/libfrob1:amd64.list":                                   "/lib/x86_64-linux-gnu/libfrob.so.1.2\n",
		"var/lib/dpkg/info/idle.list":                                             "/usr/bin/idle\n",
		"usr/local/lib/python3.11/site-packages/frob_tool-1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: frob_tool\nVersion: 1.2\n",
		"app/node_modules/@frob/kit/package.json":                                 `{"name":"@frob/kit","version":"1.0.1"}`,
		"app/node_modules/left/package.json":                                      `{"name":"left","version":"2.0.0"}`,
		"app/node_modules/left/node_modules/deep/package.json":                    `{"name":"deep","version":"3.0.0"}`,
		"opt/other/node_modules/far/package.json":                                 `{"name":"far","version":"4.0.0"}`,
	}
}

func collect(t *testing.T, files map[string]string, cwd string) []Package {
	t.Helper()
	list, err := Collect(t.Context(), image(t, files), nil, cwd)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func names(list []Package) []string {
	var all []string
	for _, p := range list {
		all = append(all, fmt.Sprintf("%s %s %s=%s", p.Ecosystem, p.Name, p.Source, p.SourceVer))
	}
	slices.Sort(all)
	return all
}

func TestCollect(t *testing.T) {
	apk := "P:frob-libs\nV:1.2.3-r3\nA:x86_64\no:frob\nF:usr/lib\nR:libfrob.so.1\n\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\n\n"
	cases := map[string]struct {
		files map[string]string
		want  []string
	}{
		"Debian, Python, Node": {debian(), []string{
			"Debian:12 frobd frobd=1:2.4-3", "Debian:12 idle idle=1.0-1", "Debian:12 libfrob1 frob=0.9-1", "PyPI frob_tool frob_tool=1.2",
			"npm @frob/kit @frob/kit=1.0.1", "npm deep deep=3.0.0", "npm far far=4.0.0", "npm left left=2.0.0",
		}},
		"distroless": {map[string]string{
			"etc/os-release":                    "ID=debian\nVERSION_ID=12\n",
			"var/lib/dpkg/status.d/a":           "Package: libc6\nVersion: 2.36-9\nSource: glibc\n",
			"var/lib/dpkg/status.d/a.md5sums":   "00  lib/x/libc.so.6\n",
			"var/lib/dpkg/status.d/zzz.md5sums": "x",
		}, []string{"Debian:12 libc6 glibc=2.36-9"}},
		"Alpine": {map[string]string{"etc/os-release": "ID=alpine\nVERSION_ID=3.20.1\n", "lib/apk/db/installed": apk}, []string{
			"Alpine:v3.20 frob-libs frob=1.2.3-r3", "Alpine:v3.20 musl musl=1.2.5-r0",
		}},
		"Alpine after the merge": {map[string]string{"etc/os-release": "ID=alpine\nVERSION_ID=3.23.0\n", "lib": "-> usr/lib",
			"usr/lib/apk/db/installed": apk}, []string{
			"Alpine:v3.23 frob-libs frob=1.2.3-r3", "Alpine:v3.23 musl musl=1.2.5-r0",
		}},
		"nothing": {map[string]string{"bin/sh": "#!"}, nil},
	}
	for name, c := range cases {
		if got := names(collect(t, c.files, "/")); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}

func TestGoModulesOfABinary(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range collect(t, map[string]string{"server": string(self)}, "/") {
		found = append(found, p.Source)
		if p.From != "/server" || p.Ecosystem != "Go" {
			t.Errorf("%+v", p)
		}
	}
	for _, want := range []string{"stdlib", "forefend.dev/forefend"} {
		if !slices.Contains(found, want) {
			t.Errorf("%q lacks %s", found, want)
		}
	}
}

func TestRealRpm(t *testing.T) {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Skip(err)
	}
	base := filepath.Join(home, "go/pkg/mod/github.com/erikvarga/go-rpmdb@v0.0.0-20250523120114-a15a62cd4593/pkg/testdata")
	for dir, name := range map[string]string{"cbl-mariner-2.0/rpmdb.sqlite": "rpmdb.sqlite", "centos7-plain/Packages": "Packages"} {
		db, err := os.ReadFile(filepath.Join(base, dir))
		if err != nil {
			t.Skip("no rpm database in the module cache: ", err)
		}
		tree := image(t, map[string]string{"etc/os-release": "ID=almalinux\nVERSION_ID=9.4\n", "var/lib/rpm/" + name: string(db)})
		list, err := Collect(t.Context(), tree, nil, "/")
		if err != nil || len(list) < 50 {
			t.Fatalf("%s: %d packages, %v", dir, len(list), err)
		}
		if list[0].Ecosystem != "AlmaLinux:9" {
			t.Errorf("%+v", list[0])
		}
		o := owners{tree: tree}
		for _, p := range list {
			if p.Name != "glibc" {
				continue
			}
			n := 0
			o.files(p, func(file string) bool { n++; return strings.HasPrefix(file, "/") })
			if n < 20 {
				t.Errorf("%s: glibc owns %d files", dir, n)
			}
		}
	}
}

// advisories are one for each of debian's packages.
func advisories(t *testing.T) *advisory.Index {
	t.Helper()
	dir := t.TempDir()
	for id, p := range map[string][2]string{"A": {"Debian:12", "frobd"}, "B": {"Debian:12", "frob"}, "C": {"Debian:12", "idle"},
		"D": {"PyPI", "frob-tool"}, "E": {"npm", "@frob/kit"}, "F": {"npm", "far"}} {
		r := map[string]any{"id": id, "affected": []any{map[string]any{
			"package": map[string]string{"ecosystem": p[0], "name": p[1]},
			"ranges":  []any{map[string]any{"type": "ECOSYSTEM", "events": []any{map[string]string{"introduced": "0"}}}},
		}}}
		raw, err := json.Marshal(r)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, id+".json"), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	x, err := advisory.Cached(t.Context(), dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

func TestReachable(t *testing.T) {
	native := []evidence.Program{{Path: "/usr/sbin/frobd", Kind: "elf"}, {Path: "/usr/lib/x86_64-linux-gnu/libfrob.so.1.2", Kind: "library"}}
	cases := map[string]struct {
		programs []evidence.Program
		cwd      string
		want     string // those that are reachable, and by what
	}{
		"nothing runs":  {nil, "/", ""},
		"the server":    {native, "/", "A by /usr/sbin/frobd, B by /usr/lib/x86_64-linux-gnu/libfrob.so.1.2"},
		"python":        {[]evidence.Program{{Path: "/usr/local/bin/python3.11", Kind: "elf"}}, "/", "D by /usr/local/bin/python3.11"},
		"node, in /app": {[]evidence.Program{{Path: "/usr/bin/node", Kind: "elf"}}, "/app", "E by /usr/bin/node"},
		"a node script": {[]evidence.Program{{Path: "/usr/bin/node", Kind: "elf"}, {Path: "/opt/other/bin/x.js", Kind: "script"}}, "/app",
			"F by /usr/bin/node"},
	}
	tree, index := image(t, debian()), advisories(t)
	for name, c := range cases {
		s := evidence.Scan{Programs: c.programs}
		o := Options{Cwd: c.cwd, Index: index, Exploited: func(evidence.Vulnerability) float64 { return 0.5 }}
		if err := Scan(t.Context(), tree, o, &s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got []string
		for i, v := range s.Vulnerabilities {
			if v.Reachable {
				got = append(got, v.ID+" by "+v.Via)
				if i > 0 && !s.Vulnerabilities[i-1].Reachable {
					t.Errorf("%s: a reachable one comes late", name)
				}
			}
			if v.Exploited != 0.5 {
				t.Errorf("%s: %+v", name, v)
			}
		}
		if all := strings.Join(got, ", "); all != c.want || len(s.Vulnerabilities) != 6 || s.Packages != 8 {
			t.Errorf("%s: %d packages, %d vulnerabilities, reachable %q; want 8, 6, %q", name, s.Packages, len(s.Vulnerabilities), all, c.want)
		}
	}
}

func TestWithoutAdvisoriesPackagesAreCounted(t *testing.T) {
	var s evidence.Scan
	if err := Scan(t.Context(), image(t, debian()), Options{}, &s); err != nil || s.Packages != 8 || s.Vulnerabilities != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestDamageIsToldAndTheRestIsRead(t *testing.T) {
	files := debian()
	files["var/lib/rpm/rpmdb.sqlite"] = "SQLite format 3\x00 and then nothing"
	list, err := Collect(t.Context(), image(t, files), nil, "/")
	if err == nil || !strings.Contains(err.Error(), "rpmdb.sqlite") || len(list) != 8 {
		t.Errorf("%d packages, %v", len(list), err)
	}
}

func TestLinksStayInside(t *testing.T) {
	list, _ := Collect(t.Context(), image(t, map[string]string{
		"var/lib/dpkg/status": "-> /../../../../../../../../var/lib/dpkg/status", "usr/local/bin": "-> /proc/self/root/usr/bin",
	}), nil, "/")
	if len(list) > 0 {
		t.Errorf("found the host's %q", names(list)[0])
	}
}

func FuzzDatabases(f *testing.F) {
	d := debian()
	f.Add("var/lib/dpkg/status", []byte(d["var/lib/dpkg/status"]))
	f.Add("lib/apk/db/installed", []byte("P:a\nV:1\nF:x\nR:y\n\n"))
	f.Add("app/node_modules/a/package.json", []byte(`{"name":"a","version":"1"}`))
	f.Add("usr/lib/python3/dist-packages/a.egg-info", []byte("Name: a\nVersion: 1\n"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		for known := range map[string]bool{"var/lib/dpkg/status": true, "lib/apk/db/installed": true,
			"app/node_modules/a/package.json": true, "usr/lib/python3/dist-packages/a.egg-info": true} {
			if name == known {
				tree := image(t, map[string]string{name: string(content)})
				list, _ := Collect(t.Context(), tree, nil, "/")
				o := owners{tree: tree}
				for _, p := range list {
					o.files(p, func(string) bool { return true })
				}
			}
		}
	})
}
