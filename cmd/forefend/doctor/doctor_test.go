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

// told fails when a row that is not in order does not say what that costs and what to do.
func told(t *testing.T, rows ...Row) {
	t.Helper()
	for _, r := range rows {
		if r.Feature == "" || r.Found == "" || !slices.Contains([]State{OK, Degraded, Missing}, r.State) {
			t.Errorf("incomplete row %+v", r)
		}
		if r.State != OK && (r.Cost == "" || r.Fix == "") {
			t.Errorf("%s is %s, and it is not said what that costs (%q) or what to do (%q)", r.Feature, r.State, r.Cost, r.Fix)
		}
	}
}

// states shortens rows to what a test is about, and checks that they are complete.
func states(t *testing.T, rows []Row) (got []string) {
	t.Helper()
	told(t, rows...)
	for _, r := range rows {
		got = append(got, r.Feature+" "+string(r.State))
	}
	return got
}

func TestToolRows(t *testing.T) {
	const dump = "if [ \"$1\" = config ]; then echo \"$DUMP\"; exit; fi; "
	for _, c := range []struct {
		name    string
		scripts map[string]string
		want    []string
	}{
		{"nothing installed", nil, []string{"runc missing", "containerd degraded"}},
		{"all new", map[string]string{
			"runc": "echo runc version 1.5.2; echo libseccomp: 2.6.0", "containerd": dump + "echo containerd x v2.4.2 y",
		}, []string{"runc ok", "libseccomp (of runc) ok", "containerd ok", "containerd's config ok"}},
		{"all old", map[string]string{
			"runc": "echo runc version 1.0.3; echo libseccomp: 2.4.4", "containerd": "echo containerd x v1.4.0 y",
		}, []string{"runc missing", "libseccomp (of runc) missing", "containerd missing"}},
		{"an old libseccomp", map[string]string{"runc": "echo runc version 1.5.2; echo libseccomp: 2.5.4"},
			[]string{"runc ok", "libseccomp (of runc) degraded", "containerd degraded"}},
		{"runc without seccomp", map[string]string{"runc": "echo runc version 1.5.2"},
			[]string{"runc ok", "libseccomp (of runc) missing", "containerd degraded"}},
		{"broken runc", map[string]string{"runc": "exit 1"}, []string{"runc missing", "containerd degraded"}},
		{"broken containerd config", map[string]string{
			"runc": "echo runc version 1.5.2; echo libseccomp: 2.6.0", "containerd": "[ \"$1\" = --version ] && echo containerd x v2.4.2 y",
		}, []string{"runc ok", "libseccomp (of runc) ok", "containerd ok", "containerd's config degraded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tools(t, c.scripts)
			if got := states(t, toolRows(t.Context())); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestHandler(t *testing.T) {
	const header = "[plugins]\n  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n  runtime_type = 'io.containerd.runc.v2'\n  pod_annotations = ['forefend.dev/*']\n"
	const ours = header + "  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.governed]\n"
	for text, want := range map[string]string{
		"":     "ok no runtime handler: ctr and nerdctl need none, Kubernetes does (docs/kubernetes.md)",
		header: "ok no runtime handler: ctr and nerdctl need none, Kubernetes does (docs/kubernetes.md)",
		ours + "pod_annotations = []\n runtime_type = \"io.containerd.forefend.v1\"\n":                                                    "degraded runtime handler governed without pod_annotations",
		ours + "runtime_type = 'io.containerd.forefend.v1'\n":                                                                             "degraded runtime handler governed without pod_annotations",
		ours + "runtime_type = 'io.containerd.forefend.v1'\n  pod_annotations = ['x', 'forefend.dev/*']\n[other]\npod_annotations = []\n": "ok runtime handler governed",
	} {
		r := handler(text)
		told(t, r)
		if got := string(r.State) + " " + r.Found; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestShim(t *testing.T) {
	for name, c := range map[string]struct {
		scripts map[string]string
		state   State
		found   string
	}{
		"none":          {nil, Degraded, "is not in PATH"},
		"the same":      {map[string]string{shimName: "echo " + shimName + " v2 \\(api 1\\)"}, OK, "v2, "},
		"another":       {map[string]string{shimName: "echo " + shimName + " v1 \\(api 1\\)"}, Degraded, " is v1"},
		"of the past":   {map[string]string{shimName: "echo flag provided but not defined >&2; exit 2"}, Degraded, "does not say its version"},
		"silent":        {map[string]string{shimName: ""}, Degraded, "does not say its version"},
		"somebody else": {map[string]string{shimName: "echo other v2"}, Degraded, "does not say its version"},
	} {
		t.Run(name, func(t *testing.T) {
			tools(t, c.scripts)
			r := Shim(t.Context(), "v2")
			told(t, r)
			if r.State != c.state || !strings.Contains(r.Found, c.found) {
				t.Errorf("%+v", r)
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
		told(t, rows...)
	}
	if after := status(); after != before {
		t.Errorf("a probe changed the process: %q, was %q", after, before)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/forefend-doctor-*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestAgent(t *testing.T) {
	for name, c := range map[string]struct {
		scripts map[string]string
		state   State
		found   string
	}{
		"none":          {nil, Degraded, "is not in PATH"},
		"the same":      {map[string]string{agentName: "echo " + agentName + " v2 \\(api 1\\)"}, OK, "v2, "},
		"another":       {map[string]string{agentName: "echo " + agentName + " v1 \\(api 1\\)"}, Degraded, " is v1"},
		"silent":        {map[string]string{agentName: ""}, Degraded, "does not say its version"},
		"somebody else": {map[string]string{agentName: "echo other v2"}, Degraded, "does not say its version"},
	} {
		t.Run(name, func(t *testing.T) {
			tools(t, c.scripts)
			r := Agent(t.Context(), "v2")
			told(t, r)
			if r.State != c.state || !strings.Contains(r.Found, c.found) {
				t.Errorf("%+v", r)
			}
		})
	}
}
