package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/e2e/harness"
)

func TestImageQuestionAsksAsCtrRunWould(t *testing.T) {
	config := ocispec.ImageConfig{
		User: "1000:1000", Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, WorkingDir: "/data",
		Env: []string{"PATH=/opt/bin:/bin", "PASSWORD=secret"},
	}
	ctx := namespaces.WithNamespace(t.Context(), "default")
	facts := workload.Facts{ID: workload.ID{Namespace: "default", Container: "explain"}}

	req, err := imageQuestion{ref: "x", user: "alice", group: "web"}.admit(ctx, facts, config)
	if err != nil {
		t.Fatal(err)
	}
	if !req.DryRun || req.Version != api.Version {
		t.Errorf("not a dry run of this version: %+v", req)
	}
	if !slices.Equal(req.Facts.Args, []string{"/entry", "serve"}) || !slices.Equal(req.Spec.Process.Args, req.Facts.Args) {
		t.Errorf("args %q, spec %q", req.Facts.Args, req.Spec.Process.Args)
	}
	if req.Facts.UID != 1000 || req.Facts.Cwd != "/data" || req.Facts.Path != "/opt/bin:/bin" {
		t.Errorf("facts %+v", req.Facts)
	}
	if req.Spec.Annotations[policy.AnnotationUser] != "alice" || req.Facts.Annotations[policy.AnnotationGroup] != "web" {
		t.Errorf("annotations %v", req.Spec.Annotations)
	}
	if req.Spec.Process.Env != nil || len(req.Spec.Process.Capabilities.Bounding) == 0 || req.Spec.Linux == nil {
		t.Errorf("spec %+v", req.Spec)
	}

	req, err = imageQuestion{ref: "x", args: []string{"other", "args"}}.admit(ctx, facts, config)
	if err != nil || !slices.Equal(req.Facts.Args, []string{"other", "args"}) {
		t.Errorf("%v, args %q", err, req.Facts.Args)
	}
	if _, err = (imageQuestion{ref: "x"}).admit(ctx, facts, ocispec.ImageConfig{}); err == nil || !strings.Contains(err.Error(), `"--"`) {
		t.Errorf("no command: %v", err)
	}
}

func TestCandidates(t *testing.T) {
	for ref, want := range map[string]string{
		"redis":                       "redis redis:latest docker.io/library/redis docker.io/library/redis:latest",
		"redis:7":                     "redis:7 docker.io/library/redis:7",
		"team/app:1":                  "team/app:1 docker.io/team/app:1",
		"registry.example.com/app:1":  "registry.example.com/app:1",
		"localhost:5000/app":          "localhost:5000/app localhost:5000/app:latest",
		"docker.io/library/redis:7":   "docker.io/library/redis:7",
		"quay.io/app@sha256:01234567": "quay.io/app@sha256:01234567",
	} {
		if got := strings.Join(candidates(ref), " "); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
}

// A real containerd is asked about a real image; only the daemon is a fake.
func TestRootExplainImage(t *testing.T) {
	env := harness.New(t, harness.WithImages("static"))
	fake, config := startFake(t)
	t.Setenv("FOREFEND_CONFIG", config)
	t.Setenv("CONTAINERD_ADDRESS", env.Address)
	t.Setenv("CONTAINERD_NAMESPACE", env.Namespace)
	var out, errs strings.Builder
	a := &app{stdout: &out, stderr: &errs}
	if code := run(t.Context(), a, []string{"explain", "--image", "static", "--", "/probe", "sleep", "1s"}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	if len(fake.admitted) != 1 {
		t.Fatalf("%d requests", len(fake.admitted))
	}
	image := fake.admitted[0].Facts.Image
	if image.Name != harness.Image("static") || image.Repository != "docker.io/library/static" || !strings.HasPrefix(image.Digest, "sha256:") {
		t.Errorf("image %+v", image)
	}
	if !strings.Contains(out.String(), "/probe sleep 1s") || !strings.Contains(out.String(), "Prediction: none") {
		t.Errorf("printed:\n%s", out.String())
	}
	if code := run(t.Context(), a, []string{"explain", "--image", "absent"}); code != exitNotFound {
		t.Errorf("an absent image: exit code %d: %s", code, errs.String())
	}
}

// The real daemon decides about a container that never ran, and records nothing of it.
func TestRootExplainImageByTheRealDaemon(t *testing.T) {
	env := harness.New(t, harness.WithImages("busybox"))
	for _, c := range []struct {
		want string
		args []string
	}{
		{"", []string{"daemon", "--detach"}},
		{"docker.io/library/busybox:latest", []string{"explain", "--image", "busybox", "--user", "alice", "--", "sleep", "1"}},
		{"user alice", []string{"explain", "--image", "busybox", "--user", "alice", "--", "sleep", "1"}},
		{"ptrace", []string{"explain", "--all", "--image", "busybox"}},
		{"Nothing has run yet", []string{"history"}},
	} {
		r := env.Forefend(c.args...)
		if err := r.Check(); err != nil || !strings.Contains(r.Stdout, c.want) {
			t.Errorf("forefend %q: %v, no %q in\n%s", c.args, err, c.want, r.Stdout)
		}
	}
	if r := env.Forefend("ps", "-q"); r.Code != 0 || r.Stdout != "" {
		t.Errorf("ps: %+v", r)
	}
	if r := env.Forefend("explain", "nobody"); r.Code != exitNotFound {
		t.Errorf("explain of an unknown container: exit code %d, not %d: %s", r.Code, exitNotFound, r.Stderr)
	}
	if r := env.Forefend("history", "nothing-like-it"); r.Code != exitNotFound {
		t.Errorf("history of an unknown workload: exit code %d, not %d: %s", r.Code, exitNotFound, r.Stderr)
	}
	for _, line := range strings.Split(env.Forefend("explain", "--all", "--image", "busybox").Stdout, "\n") {
		if output.Columns(line) > output.Width {
			t.Errorf("%d columns: %s", output.Columns(line), line)
		}
	}
	if r := env.Forefend("daemon"); r.Code != exitFailed {
		t.Errorf("a second daemon: exit code %d: %s", r.Code, r.Stderr)
	}
}
