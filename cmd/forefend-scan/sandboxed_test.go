package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/predictor/scan/sandbox"
)

// The test binary is the scanner when its first argument says so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "as-scanner" {
		os.Args = slices.Delete(os.Args, 1, 2)
		main()
	}
	os.Exit(m.Run())
}

func scanned(t *testing.T, args ...string) (evidence.Scan, error) {
	t.Helper()
	if sandbox.Cgo {
		t.Skip(sandbox.ErrCgo)
	}
	return sandbox.Run(t.Context(), "/proc/self/exe", append([]string{"as-scanner", "--json"}, args...), sandbox.Limits{})
}

func put(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

// All parts of the scan work inside the sandbox, as the daemon runs it: a Go server with a vulnerable standard library.
func TestScanInTheSandbox(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	root, osv, cache := t.TempDir(), t.TempDir(), t.TempDir()
	put(t, root, map[string]string{"usr/bin/server": string(self), "etc/os-release": "ID=debian\nVERSION_ID=12\n",
		"var/lib/dpkg/status": "Package: a\nStatus: install ok installed\nVersion: 1-1\n"})
	put(t, osv, map[string]string{"Go/a.json": `{"id":"GO-9","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected":[{"package":{"ecosystem":"Go","name":"stdlib"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`})
	if _, err := scanned(t, "--index", "--osv", osv, "--cache", cache); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time from the cache
		s, err := scanned(t, "--rootfs", root, "--osv", osv, "--cache", cache, "--env", "GOMEMLIMIT=64MiB", "--expose", "53/udp",
			"--", "server", "--listen", ":80")
		if err != nil {
			t.Fatal(err)
		}
		if s.Entry != "/usr/bin/server" || len(s.Syscalls) < 30 || len(s.Errors) > 0 {
			t.Errorf("entry %q, %d calls, errors %q", s.Entry, len(s.Syscalls), s.Errors)
		}
		if s.Memory.Runtime != "go" || s.Packages < 2 || len(s.Ports) != 2 || len(s.Capabilities) != 1 || len(s.Sinks) != 0 {
			t.Errorf("memory %+v, %d packages, ports %v, capabilities %v, sinks %v", s.Memory, s.Packages, s.Ports, s.Capabilities, s.Sinks)
		}
		if len(s.Vulnerabilities) != 1 || !s.Vulnerabilities[0].Reachable || s.Vulnerabilities[0].Via != "/usr/bin/server" ||
			s.Vulnerabilities[0].Exploited <= 0 {
			t.Errorf("%+v", s.Vulnerabilities)
		}
	}
}

// What a hostile image can do is make the scan fail, or say less.
func TestHostileImages(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	garbage := strings.Repeat("\x7fELF\xff\x00SQLite format 3\x00", 5000)
	for name, files := range map[string]map[string]string{
		"half a program":  {"bin/p": string(self[:len(self)/2])},
		"a broken header": {"bin/p": "\x7fELF\x02\x01\x01" + strings.Repeat("\xff", 4096)},
		"broken databases": {"bin/p": "#!/bin/sh\n:(){ :|:& };:\n", "var/lib/dpkg/status": garbage, "lib/apk/db/installed": garbage,
			"var/lib/rpm/Packages": "\x00\x06\x15\x61" + garbage, "var/lib/rpm/rpmdb.sqlite": "SQLite format 3\x00" + garbage,
			"app/node_modules/a/package.json": garbage, "usr/lib/python3/dist-packages/a.egg-info": garbage},
		"only noise": {"bin/p": strings.Repeat("\xff\x00", 100000)},
	} {
		root := t.TempDir()
		put(t, root, files)
		s, err := scanned(t, "--rootfs", root, "--", "/bin/p")
		var failed *sandbox.FailedError
		if err != nil && !errors.As(err, &failed) && !errors.Is(err, sandbox.ErrTime) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && len(s.Errors) == 0 && len(s.Unknown) == 0 {
			t.Errorf("%s: %+v has neither errors nor unknowns", name, s)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"--rootfs", "/"}, {"--rootfs", "/", "--osv", "/x", "--", "true"}, {"--nonsense"}, {"--index"}} {
		var out, errs strings.Builder
		lock := func(*input) (string, error) { t.Errorf("%q: came as far as the scan", args); return "", nil }
		if code := run(t.Context(), args, &out, &errs, lock); code != 2 || errs.Len() == 0 {
			t.Errorf("%q: status %d, %q", args, code, errs.String())
		}
	}
}

func TestTheCachesOwnerStays(t *testing.T) {
	dir := t.TempDir()
	before, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ownCache(dir)
	if err != nil || own == dir {
		t.Fatalf("%q, %v", own, err)
	}
	after, err := os.Stat(dir)
	if err != nil || before.Mode() != after.Mode() {
		t.Errorf("the directory's mode went from %v to %v, %v", before.Mode(), after.Mode(), err)
	}
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", own); err != nil {
		t.Fatal(err)
	}
	if _, err := ownCache(dir); err == nil {
		t.Error("a link was taken for the cache")
	}
}
