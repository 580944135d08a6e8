// Package identity completes what a bundle says of a container with what only
// the node knows: the image's name, digest and labels, from containerd, and the
// program that PID 1 will run, from the root filesystem.
//
// A source that is late is left out of the decision and says so; its answer
// still lands in a cache for the next container. Resolver may be used from any
// goroutine.
package identity

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/rootfs"
	"forefend.dev/forefend/runtime/workload"
)

const (
	maxLabels    = 64
	maxLabel     = 1024
	maxDaemons   = 8                // containerds remembered; one per config is usual
	afterthought = 10 * time.Second // how long a late source may go on for the cache's sake
	cachedFiles  = 4096
	maxListening = 64 // events that are looked at
)

// reconnect is how soon a containerd that was restarted is asked again.
var reconnect = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second}

// Resolver asks containerd and reads root filesystems.
type Resolver struct {
	executables *rootfs.Cache
	late        sync.WaitGroup
	life        context.Context // of late sources, which outlive the call that asked them; ended by Close
	end         context.CancelFunc
	ahead       ahead
	known       known
	listener    Listener
	listening   chan struct{} // a place for each event that listener looks at

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by containerd address; guarded by mu
}

// Created is a container of ours that has been created, and its image. Who follows must not write to it.
type Created struct {
	*containersapi.Container
	Of workload.Image
}

// Listener is told what containerd tells: Created, and *events.ImageCreate. It may take its time, but not longer than ctx.
type Listener func(ctx context.Context, conn *grpc.ClientConn, namespace string, event any)

// NewResolver returns a Resolver to be closed after use. listener may be nil.
func NewResolver(listener Listener) *Resolver {
	life, end := context.WithCancel(context.Background())
	return &Resolver{
		executables: rootfs.NewCache(cachedFiles), life: life, end: end, conns: make(map[string]*grpc.ClientConn), listener: listener, listening: make(chan struct{}, maxListening),
	}
}

// Close ends late sources and drops the connections. Nobody may call Identify
// any more.
func (r *Resolver) Close() error {
	r.end()
	r.late.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var last error
	for _, c := range r.conns {
		if err := c.Close(); err != nil {
			last = err
		}
	}
	clear(r.conns)
	return last
}

// answer is what one source found out; apply puts it into the facts.
type answer struct {
	api.Source
	apply func(*workload.Facts)
}

// Identify asks both sources at once and waits for them until ctx ends.
func (r *Resolver) Identify(ctx context.Context, f *workload.Facts) []api.Source {
	asked := *f
	waits := []struct {
		name string
		ask  func(context.Context) answer
	}{
		{api.SourceImage, func(ctx context.Context) answer { return r.image(ctx, asked) }},
		{api.SourceExecutable, func(ctx context.Context) answer { return r.executable(ctx, asked) }},
	}
	results := make([]chan answer, len(waits))
	began := time.Now()
	for i, w := range waits {
		results[i] = make(chan answer, 1)
		r.late.Go(func() {
			ctx, cancel := context.WithTimeout(r.life, afterthought)
			defer cancel()
			start := time.Now()
			a := w.ask(ctx)
			a.Name, a.Took = w.name, time.Since(start)
			results[i] <- a
		})
	}
	sources := make([]api.Source, 0, len(waits))
	for i, w := range waits {
		select {
		case a := <-results[i]:
			a.apply(f)
			sources = append(sources, a.Source)
		case <-ctx.Done():
			sources = append(sources, api.Source{Name: w.name, Status: api.SourceLate, Took: time.Since(began),
				Reason: "no answer within the prediction budget; the next container profits from it"})
		}
	}
	return sources
}

func nothing(*workload.Facts) {}

func (r *Resolver) executable(ctx context.Context, f workload.Facts) answer {
	if f.Executable.SHA256 != "" {
		return answer{api.Source{Status: api.SourceOK, Reason: f.Executable.Path}, nothing}
	}
	if len(f.Rootfs) == 0 || len(f.Args) == 0 {
		return answer{api.Source{Status: api.SourceAbsent, Reason: "no root filesystem or no command is known"}, nothing}
	}
	exe, err := r.executables.Executable(ctx, f.Rootfs, f.Args, f.Path, f.Cwd)
	if err != nil {
		return answer{api.Source{Status: api.SourceFailed, Reason: err.Error()}, nothing}
	}
	return answer{api.Source{Status: api.SourceOK, Reason: exe.Path}, func(f *workload.Facts) { f.Executable = exe }}
}

func (r *Resolver) image(ctx context.Context, f workload.Facts) answer {
	if f.Containerd == "" {
		return answer{api.Source{Status: api.SourceAbsent, Reason: "the containerd that asks is not known"}, nothing}
	}
	if f.Image.Digest != "" { // of a shim that asks again
		return answer{api.Source{Status: api.SourceOK, Reason: f.Image.Name}, nothing}
	}
	image, err := r.lookup(ctx, f)
	if err != nil {
		status := api.SourceFailed
		if errdefs.IsNotFound(err) {
			status = api.SourceAbsent
		}
		return answer{api.Source{Status: status, Reason: err.Error()}, nothing}
	}
	if image.Name == "" {
		return answer{api.Source{Status: api.SourceAbsent, Reason: "the container was made without an image"}, nothing}
	}
	return answer{api.Source{Status: api.SourceOK, Reason: image.Name}, func(f *workload.Facts) { f.Image = image }}
}

// lookup finds the container's image: asked for ahead, or now.
func (r *Resolver) lookup(ctx context.Context, f workload.Facts) (workload.Image, error) {
	conn, err := r.connect(f.Containerd)
	if err != nil {
		return workload.Image{}, err
	}
	if image, ok := r.early(ctx, f.ID); ok {
		return image, nil
	}
	image, _, err := r.fetch(ctx, conn, f.ID, f.Image.Name)
	return image, err
}

// fetch asks containerd for a container and its image; name is what the bundle says it is, if anything. The container is nil where
// containerd does not tell of it.
func (r *Resolver) fetch(ctx context.Context, conn *grpc.ClientConn, id workload.ID, name string) (image workload.Image, c *containersapi.Container, err error) {
	ctx = namespaces.WithNamespace(ctx, id.Namespace)
	image.Name = name
	var labels map[string]string
	got, err := containersapi.NewContainersClient(conn).Get(ctx, &containersapi.GetContainerRequest{ID: id.Container})
	if err != nil {
		if image.Name == "" {
			return image, nil, fmt.Errorf("ask containerd for the container: %w", errgrpc.ToNative(err))
		}
	} else {
		c = got.Container
		if c.Image != "" {
			image.Name = c.Image
		}
		labels = c.Labels
	}
	image.Labels = bounded(labels, nil)
	if image.Name == "" {
		return image, c, nil
	}
	image.Repository = repository(image.Name)
	f, err := r.find(ctx, named{conn, id.Namespace, image.Name})
	if err != nil {
		return image, c, nil // an image may be removed while its containers go on
	}
	image.Digest, image.Labels = f.digest, bounded(labels, f.labels)
	return image, c, nil
}

// find returns what is known of an image, or asks its containerd.
func (r *Resolver) find(ctx context.Context, n named) (found, error) {
	f, ok, since := r.known.get(n)
	if ok {
		return f, nil
	}
	f.asked = time.Now()
	img, err := imagesapi.NewImagesClient(n.conn).Get(ctx, &imagesapi.GetImageRequest{Name: n.name})
	if err != nil {
		return f, err
	}
	if img.Image.Target != nil {
		f.digest = img.Image.Target.Digest
	}
	f.labels = bounded(nil, img.Image.Labels)
	r.known.add(n, f, since)
	return f, nil
}

// repository is an image name without its tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') { // else it is a port
		name = name[:i]
	}
	return name
}

// bounded joins labels, of which the container's come first and win.
func bounded(container, image map[string]string) map[string]string {
	out := make(map[string]string)
	for _, labels := range []map[string]string{container, image} {
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			if _, there := out[k]; !there && len(out) < maxLabels && len(k)+len(labels[k]) <= maxLabel {
				out[k] = labels[k]
			}
		}
	}
	return out
}

// connect returns the connection to one containerd. gRPC reconnects by itself.
func (r *Resolver) connect(address string) (*grpc.ClientConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.conns[address]; c != nil {
		return c, nil
	}
	if len(r.conns) >= maxDaemons {
		return nil, fmt.Errorf("more than %d containerds ask one forefend daemon", maxDaemons)
	}
	path := strings.TrimPrefix(address, "unix://")
	c, err := grpc.NewClient(dialer.DialAddress(path),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialer.ContextDialer),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	r.conns[address] = c
	r.late.Go(func() { r.follow(c) })
	return c, nil
}
