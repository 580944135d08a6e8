package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAtLeast(t *testing.T) {
	for _, c := range []struct {
		version      string
		major, minor int
		want         bool
	}{
		{"1.1.0", 1, 1, true}, {"1.0.3", 1, 1, false}, {"v2.4.2+unknown", 1, 6, true}, {"1.1.0-rc.1", 1, 1, true},
		{"0.9", 1, 0, false}, {"2.5.4", 2, 6, false}, {"1.7~ds1", 1, 6, true}, {"devel", 1, 1, true}, {"a.b", 9, 9, true},
	} {
		if got := atLeast(c.version, c.major, c.minor); got != c.want {
			t.Errorf("atLeast(%q, %d, %d) = %v", c.version, c.major, c.minor, got)
		}
	}
}

// tools puts scripts into a PATH of their own.
func tools(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestToolRows(t *testing.T) {
	for _, c := range []struct {
		name    string
		scripts map[string]string
		want    []string
	}{
		{"nothing installed", nil, []string{"runc missing", "containerd degraded", "shim degraded"}},
		{"all new", map[string]string{
			"runc": "echo runc version 1.5.2; echo libseccomp: 2.6.0", "containerd": "echo containerd x v2.4.2 y", "containerd-shim-forefend-v1": "",
		}, []string{"runc ok", "libseccomp (of runc) ok", "containerd ok", "shim ok"}},
		{"all old", map[string]string{
			"runc": "echo runc version 1.0.3; echo libseccomp: 2.4.4", "containerd": "echo containerd x v1.4.0 y",
		}, []string{"runc missing", "libseccomp (of runc) missing", "containerd missing", "shim degraded"}},
		{"runc without seccomp", map[string]string{"runc": "echo runc version 1.5.2"},
			[]string{"runc ok", "libseccomp (of runc) missing", "containerd degraded", "shim degraded"}},
		{"broken runc", map[string]string{"runc": "exit 1"}, []string{"runc missing", "containerd degraded", "shim degraded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tools(t, c.scripts)
			var got []string
			for _, r := range toolRows(t.Context()) {
				got = append(got, r.Feature+" "+string(r.State))
				if r.State != OK && r.Fix == "" {
					t.Errorf("%s is %s and nothing says what to do", r.Feature, r.State)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Every probe runs on any Linux, concludes something, and leaves this process as it was.
func TestProbesConclude(t *testing.T) {
	status := func() string {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(b), "NoNewPrivs")
		return strings.SplitN(after, "Speculation", 2)[0]
	}
	before := status()
	for _, p := range Probes() {
		rows := p.Look(t.Context())
		if len(rows) == 0 {
			t.Errorf("%s found nothing", p.Name)
		}
		for _, r := range rows {
			if r.Feature == "" || r.Found == "" || !slices.Contains([]State{OK, Degraded, Missing}, r.State) {
				t.Errorf("%s: incomplete row %+v", p.Name, r)
			}
		}
	}
	if after := status(); after != before {
		t.Errorf("a probe changed the process: %q, was %q", after, before)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/forefend-doctor-*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
