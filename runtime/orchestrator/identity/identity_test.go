package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// containerd answers like one that has a few containers. What a real one answers is the e2e tests' business.
type containerd struct {
	containersapi.UnimplementedContainersServer
	containers map[string]*containersapi.Container // by namespace/id
	hang       chan struct{}                       // nil: answers at once
}

type images struct {
	imagesapi.UnimplementedImagesServer
	images map[string]*imagesapi.Image // by namespace/name
}

func namespace(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("containerd-namespace"), ",")
}

func (c *containerd) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	if c.hang != nil {
		select {
		case <-c.hang:
		case <-ctx.Done():
		}
	}
	if found := c.containers[namespace(ctx)+"/"+r.ID]; found != nil {
		return &containersapi.GetContainerResponse{Container: found}, nil
	}
	return nil, status.Errorf(codes.NotFound, "container %q: not found", r.ID)
}

func (i *images) Get(ctx context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	if found := i.images[namespace(ctx)+"/"+r.Name]; found != nil {
		return &imagesapi.GetImageResponse{Image: found}, nil
	}
	return nil, status.Errorf(codes.NotFound, "image %q: not found", r.Name)
}

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func newContainerd() *containerd {
	return &containerd{containers: map[string]*containersapi.Container{
		"default/web":  {ID: "web", Image: "docker.io/library/redis:7", Labels: map[string]string{"team": "shop", "both": "container's"}},
		"default/bare": {ID: "bare"},
		"default/gone": {ID: "gone", Image: "docker.io/library/removed:1"},
		"k8s.io/web":   {ID: "web", Image: "registry.k8s.io/pause@" + digest},
	}}
}

func theImages() *images {
	return &images{images: map[string]*imagesapi.Image{
		"default/docker.io/library/redis:7": {Name: "docker.io/library/redis:7", Target: &types.Descriptor{Digest: digest},
			Labels: map[string]string{"version": "7", "both": "image's"}},
		"default/docker.io/cri/name:1":           {Target: &types.Descriptor{Digest: digest}},
		"k8s.io/registry.k8s.io/pause@" + digest: {Target: &types.Descriptor{Digest: digest}},
	}}
}

// start serves c on a socket at path and returns what ends it.
func start(t *testing.T, c *containerd, path string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	containersapi.RegisterContainersServer(server, c)
	imagesapi.RegisterImagesServer(server, theImages())
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })
	return sync.OnceFunc(func() {
		server.Stop()
		served.Wait()
	})
}

func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ffid") // short: a socket's path has to fit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func resolver(t *testing.T) *Resolver {
	t.Helper()
	r := NewResolver(nil)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// identify asks for the image alone.
func identify(t *testing.T, r *Resolver, f workload.Facts) (workload.Facts, api.Source) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	sources := r.Identify(ctx, &f)
	if len(sources) != 2 || sources[0].Name != "image" || sources[1].Name != "executable" || sources[1].Status != api.SourceAbsent {
		t.Fatalf("sources %+v", sources)
	}
	return f, sources[0]
}

func TestImage(t *testing.T) {
	path := socket(t)
	t.Cleanup(start(t, newContainerd(), path))
	r := resolver(t)
	for name, test := range map[string]struct {
		id       workload.ID
		hint     string // the name CRI put into the annotations
		want     workload.Image
		status   string
		mentions string
	}{
		"known": {workload.ID{Namespace: "default", Container: "web"}, "", workload.Image{
			Name: "docker.io/library/redis:7", Repository: "docker.io/library/redis", Digest: digest,
			Labels: map[string]string{"team": "shop", "version": "7", "both": "container's"},
		}, api.SourceOK, "redis:7"},
		"in its own namespace": {workload.ID{Namespace: "k8s.io", Container: "web"}, "", workload.Image{
			Name: "registry.k8s.io/pause@" + digest, Repository: "registry.k8s.io/pause", Digest: digest, Labels: map[string]string{},
		}, api.SourceOK, "pause"},
		"made without an image": {workload.ID{Namespace: "default", Container: "bare"}, "", workload.Image{}, api.SourceAbsent, "without an image"},
		"its image is removed": {workload.ID{Namespace: "default", Container: "gone"}, "", workload.Image{
			Name: "docker.io/library/removed:1", Repository: "docker.io/library/removed", Labels: map[string]string{},
		}, api.SourceOK, "removed"},
		"unknown": {workload.ID{Namespace: "default", Container: "nobody"}, "", workload.Image{}, api.SourceAbsent, "not found"},
		"unknown, but CRI named its image": {workload.ID{Namespace: "default", Container: "nobody"}, "docker.io/cri/name:1", workload.Image{
			Name: "docker.io/cri/name:1", Repository: "docker.io/cri/name", Digest: digest, Labels: map[string]string{},
		}, api.SourceOK, "cri/name"},
	} {
		t.Run(name, func(t *testing.T) {
			f, source := identify(t, r, workload.Facts{ID: test.id, Containerd: path, Image: workload.Image{Name: test.hint}})
			if got, want := fmt.Sprintf("%+v", f.Image), fmt.Sprintf("%+v", test.want); got != want && test.status == api.SourceOK {
				t.Errorf("image\n%s, not\n%s", got, want)
			}
			if source.Status != test.status || !strings.Contains(source.Reason, test.mentions) {
				t.Errorf("%+v", source)
			}
		})
	}
}

func TestWithoutContainerd(t *testing.T) {
	r := resolver(t)
	if _, source := identify(t, r, workload.Facts{}); source.Status != api.SourceAbsent {
		t.Errorf("%+v", source)
	}
	if _, source := identify(t, r, workload.Facts{Containerd: socket(t)}); source.Status != api.SourceFailed || source.Reason == "" {
		t.Errorf("%+v", source)
	}
}

// A containerd that was restarted is found again, over the connection there was.
func TestContainerdRestarts(t *testing.T) {
	path := socket(t)
	r := resolver(t)
	facts := workload.Facts{ID: workload.ID{Namespace: "default", Container: "web"}, Containerd: "unix://" + path}
	for range 2 {
		stop := start(t, newContainerd(), path)
		deadline := time.Now().Add(30 * time.Second)
		for {
			f, source := identify(t, r, facts)
			if f.Image.Digest == digest {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v", source)
			}
		}
		stop()
		if _, source := identify(t, r, facts); source.Status != api.SourceFailed {
			t.Errorf("stopped: %+v", source)
		}
	}
	if len(r.conns) != 1 {
		t.Errorf("%d connections", len(r.conns))
	}
}

// A hung containerd costs the budget of one decision; Close ends what still waits for it.
func TestHungContainerd(t *testing.T) {
	before := runtime.NumGoroutine()
	c := newContainerd()
	c.hang = make(chan struct{})
	path := socket(t)
	stop := start(t, c, path)
	r := NewResolver(nil)
	facts := workload.Facts{ID: workload.ID{Namespace: "default", Container: "web"}, Containerd: path, Image: workload.Image{Name: "as asked"}}
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		f := facts
		began := time.Now()
		sources := r.Identify(ctx, &f)
		cancel()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		if sources[0].Status != api.SourceLate || sources[0].Reason == "" || f.Image.Name != "as asked" || f.Image.Digest != "" {
			t.Errorf("%+v, image %+v", sources[0], f.Image)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(afterthought / 2):
		t.Error("Close waits for a hung containerd")
		<-closed
	}
	close(c.hang)
	stop()
	settled(t, before)
}

// settled fails when goroutines that were started meanwhile do not end.
func settled(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before there were %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}

func TestManyContainerds(t *testing.T) {
	r := resolver(t)
	for i := range maxDaemons {
		if _, err := r.connect(fmt.Sprint("/run/", i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.connect("/run/one-more"); err == nil || !strings.Contains(err.Error(), "8 containerds") {
		t.Errorf("%v", err)
	}
	if _, err := r.connect("/run/0"); err != nil {
		t.Error(err)
	}
}

func TestRepository(t *testing.T) {
	for name, want := range map[string]string{
		"docker.io/library/redis:7":                "docker.io/library/redis",
		"docker.io/library/redis":                  "docker.io/library/redis",
		"docker.io/library/redis@" + digest:        "docker.io/library/redis",
		"docker.io/library/redis:7@" + digest:      "docker.io/library/redis",
		"localhost:5000/team/app:1.2":              "localhost:5000/team/app",
		"registry.example.com:443/a/b/c@" + digest: "registry.example.com:443/a/b/c",
		"redis":                       "redis",
		"":                            "",
		"import-2026-03-01@" + digest: "import-2026-03-01",
		"redis:7":                     "redis",
		"localhost:5000/app":          "localhost:5000/app",
		"::::":                        ":::",
	} {
		if got := repository(name); got != want {
			t.Errorf("%q is of %q, not %q", name, got, want)
		}
	}
}

// Labels are the image author's choice: how many and how long must not matter.
func TestLabelsAreBounded(t *testing.T) {
	labels := make(map[string]string)
	for i := range 1000 {
		labels[fmt.Sprintf("label-%04d", i)] = "x"
	}
	labels["0-huge"] = strings.Repeat("x", maxLabel)
	got := bounded(labels, map[string]string{"label-0000": "image's"})
	if len(got) != maxLabels || got["0-huge"] != "" || got["label-0000"] != "x" || got["label-0063"] != "x" {
		t.Errorf("%d labels: %v", len(got), got)
	}
}

func TestExecutable(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(root, "bin"), 0o755), os.WriteFile(filepath.Join(root, "bin", "server"), []byte("#!/bin/sh\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	r := resolver(t)
	f := workload.Facts{Rootfs: []string{root}, Args: []string{"server"}, Path: "/bin"}
	sources := r.Identify(t.Context(), &f)
	if sources[1].Status != api.SourceOK || f.Executable.Path != "/bin/server" || len(f.Executable.SHA256) != 64 {
		t.Errorf("%+v %+v", sources[1], f.Executable)
	}
	f = workload.Facts{Rootfs: []string{root}, Args: []string{"nobody"}, Path: "/bin"}
	if sources := r.Identify(t.Context(), &f); sources[1].Status != api.SourceFailed || sources[1].Reason == "" || f.Executable.Path != "" {
		t.Errorf("%+v", sources[1])
	}
}
