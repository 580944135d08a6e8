package packages

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/test/root"
)

const repository = "../.."

// The two versions whose packages are built.
const older, newer = "v1.9.0", "v1.10.0"

// built is where a version's packages are.
func built(version string) string { return filepath.Join(".cache", "packages", version) }

// build makes the packages of a version, with binaries of their own beside those that other tests use.
func build(t *testing.T, version string) {
	t.Helper()
	bin := filepath.Join(built(version), "bin")
	if err := os.MkdirAll(filepath.Join(repository, bin), 0o755); err != nil {
		t.Fatal(err)
	}
	nfpm, err := filepath.Abs(filepath.Join(repository, "bin", "nfpm"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(nfpm); err != nil {
		t.Fatalf("%v (run make setup-test)", err)
	}
	link := filepath.Join(repository, bin, "nfpm")
	_ = os.Remove(link)
	if err := os.Symlink(nfpm, link); err != nil {
		t.Fatal(err)
	}
	run(t, "make", "-C", repository, "packages", "VERSION="+version, "BIN="+bin, "DIST="+filepath.Join(built(version), "dist"))
}

// file is the package of a version in a format.
func file(t *testing.T, version, format string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(repository, built(version), "dist", "*."+format))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages %v: %v", found, err)
	}
	if !strings.Contains(filepath.Base(found[0]), version[1:]) {
		t.Errorf("%s does not say %s", found[0], version)
	}
	path, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// installer is dpkg or rpm.
type installer struct {
	format  string
	install func(r target, file string) // or upgrade, or roll back
	remove  func(r target)
	purge   func(r target) // nil: the format knows no purge
	files   func(t *testing.T, file string) string
	config  func(t *testing.T, file string) string
}

var installers = []installer{
	{
		format:  "deb",
		install: func(r target, file string) { r.t.Log(run(r.t, "dpkg", "--root="+r.dir, "-i", file)) },
		remove:  func(r target) { run(r.t, "dpkg", "--root="+r.dir, "-r", "forefend") },
		purge:   func(r target) { run(r.t, "dpkg", "--root="+r.dir, "-P", "forefend") },
		files:   func(t *testing.T, file string) string { return run(t, "dpkg", "-c", file) },
		config:  func(t *testing.T, file string) string { return run(t, "dpkg-deb", "-I", file, "conffiles") },
	},
	{
		format: "rpm",
		install: func(r target, file string) {
			r.t.Log(run(r.t, "rpm", "--root", r.dir, "--nodeps", "--oldpackage", "-U", file))
		},
		remove: func(r target) { run(r.t, "rpm", "--root", r.dir, "--nodeps", "-e", "forefend") },
		files:  func(t *testing.T, file string) string { return run(t, "rpm", "-qplv", "--nosignature", file) },
		config: func(t *testing.T, file string) string { return run(t, "rpm", "-qpc", "--nosignature", file) },
	},
}

func TestPackages(t *testing.T) {
	root.Test(t)
	build(t, older)
	build(t, newer)
	for _, i := range installers {
		t.Run(i.format, func(t *testing.T) {
			t.Run("contents", func(t *testing.T) { contents(t, i) })
			t.Run("life", func(t *testing.T) { life(t, i) })
		})
	}
}

var mode = regexp.MustCompile(`(?m)^([-d][rwx-]{9})\s.*?\.?(/\S+)$`)

func contents(t *testing.T, i installer) {
	have := make(map[string]string)
	for _, m := range mode.FindAllStringSubmatch(i.files(t, file(t, newer, i.format)), -1) {
		have[m[2]] = m[1]
	}
	want := map[string]string{
		"/usr/bin/forefend": "-rwxr-xr-x", "/usr/bin/containerd-shim-forefend-v1": "-rwxr-xr-x",
		"/etc/forefend/config.toml": "-rw-r--r--", "/usr/lib/systemd/system/forefend.service": "-rw-r--r--",
		"/usr/lib/systemd/system/forefend-gateway.service": "-rw-r--r--",
		"/usr/lib/systemd/system/forefend-tunneld.service": "-rw-r--r--",
		"/usr/share/bash-completion/completions/forefend":  "-rw-r--r--", "/usr/share/zsh/site-functions/_forefend": "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/forefend.fish": "-rw-r--r--",
		"/usr/share/doc/forefend/LICENSE":                    "-rw-r--r--", "/usr/share/doc/forefend/copyright": "-rw-r--r--",
		"/usr/share/doc/forefend/config.toml.example": "-rw-r--r--", "/usr/share/doc/forefend/metrics.md": "-rw-r--r--",
		"/usr/share/doc/forefend/operations.md": "-rw-r--r--", "/usr/share/doc/forefend/README.md": "-rw-r--r--",
	}
	for path, m := range want {
		if have[path] != m {
			t.Errorf("%s is %q, want %s", path, have[path], m)
		}
	}
	for path := range have {
		inside := func(dir string) bool { return strings.HasPrefix(path+"/", dir) || strings.HasPrefix(dir, path) }
		if !slices.ContainsFunc([]string{"/usr/bin/", "/usr/lib/systemd/", "/usr/share/", "/etc/forefend/"}, inside) {
			t.Errorf("it brings %s", path)
		}
	}
	if config := strings.TrimSpace(i.config(t, file(t, newer, i.format))); config != "/etc/forefend/config.toml" {
		t.Errorf("configuration files: %q", config)
	}
}

// life takes a package from its installation to its removal.
func life(t *testing.T, i installer) {
	r := newRoot(t)
	i.install(r, file(t, older, i.format))
	if out := r.mustIn("forefend", "version"); !strings.HasPrefix(out, "forefend "+older+" ") {
		t.Errorf("version: %s", out)
	}
	if out := r.mustIn("forefend", "policy", "check"); !strings.Contains(out, "no problem") && !strings.Contains(out, "in order") {
		t.Errorf("the packaged configuration: %s", out)
	}
	if d := r.daemon(); d.PID != 0 || r.exists("var/lib/forefend") {
		t.Errorf("an installation starts a daemon: %+v", d)
	}
	i.install(r, file(t, newer, i.format)) // nothing runs: nothing is started
	if d := r.daemon(); d.PID != 0 {
		t.Errorf("an upgrade starts a daemon: %+v", d)
	}
	verifyUnits(t, r)

	// Whoever edits the configuration keeps it, and a daemon that runs is replaced by one of the new binary, both ways.
	config := r.read("etc/forefend/config.toml") + "mode = \"observe\"\n"
	if err := os.WriteFile(r.path("etc/forefend/config.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	r.mustIn("forefend", "daemon", "--detach", "--ready-timeout", "60s")
	before := r.daemon()
	if before.Version != newer {
		t.Fatalf("daemon %+v", before)
	}
	for _, version := range []string{older, newer} {
		i.install(r, file(t, version, i.format))
		after := r.daemon()
		if after.Version != version || after.PID == before.PID || after.PID == 0 {
			t.Errorf("after the change to %s the daemon is %+v, was %+v", version, after, before)
		}
		if out := r.mustIn("forefend", "version"); !strings.HasPrefix(out, "forefend "+version+" ") {
			t.Errorf("version: %s", out)
		}
		if now := r.read("etc/forefend/config.toml"); now != config {
			t.Errorf("the configuration is now %q", now)
		}
		before = after
	}

	i.remove(r)
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", before.PID)); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("daemon %d outlives its package", before.PID)
	}
	if r.exists("usr/bin/forefend") || r.exists("usr/bin/containerd-shim-forefend-v1") || !r.exists("var/lib/forefend/store") {
		t.Error("removed: the binaries are there, or the history is not")
	}
	if i.purge == nil {
		if now := r.read("etc/forefend/config.toml.rpmsave"); now != config {
			t.Errorf("the edited configuration was not saved: %q", now)
		}
		return
	}
	if !r.exists("etc/forefend/config.toml") {
		t.Error("removed: the configuration is gone")
	}
	i.purge(r)
	for _, path := range []string{"etc/forefend", "var/lib/forefend", "run/forefend", "usr/share/doc/forefend"} {
		if r.exists(path) {
			t.Errorf("purged: %s is there", path)
		}
	}
}

// verifyUnits lets systemd's own checker look at the units as they are installed.
func verifyUnits(t *testing.T, r target) {
	t.Helper()
	dir := t.TempDir()
	var copied []string
	for _, name := range []string{"forefend.service", "forefend-gateway.service", "forefend-tunneld.service"} {
		unit := r.read("usr/lib/systemd/system/" + name)
		if strings.Contains(unit, "@bindir@") || strings.Contains(unit, "@docdir@") {
			t.Errorf("a placeholder is left in %s", name)
		}
		// The checker looks for binaries on this machine.
		text := strings.ReplaceAll(strings.ReplaceAll(unit, "/usr/bin/", r.path("usr/bin")+"/"), "/usr/share/doc/", r.path("usr/share/doc")+"/")
		copied = append(copied, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(files ...string) (string, error) {
		out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, files...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := verify(copied...); err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// It notices what is wrong.
	for _, file := range copied {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, bytes.Replace(text, []byte("Type=notify"), []byte("Type=nonsense"), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, _ := verify(file); !strings.Contains(out, "nonsense") {
			t.Errorf("the checker misses a mistake: %s", out)
		}
	}
}
