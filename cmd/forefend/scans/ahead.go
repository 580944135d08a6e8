package scans

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"

	orchidentity "forefend.dev/forefend/runtime/orchestrator/identity"
	"forefend.dev/forefend/runtime/rootfs"
	"forefend.dev/forefend/runtime/workload"
)

const (
	// An image is told of before it is unpacked; a container cannot be created before.
	unpackTries = 40
	unpackEvery = 500 * time.Millisecond
	// defaultPath is PATH where an image sets none, as containerd's clients have it.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Follow asks for the scan of what an event of containerd is about: a container that was created, or an image. It returns
// soon, or when ctx ends; what cannot be found out is asked for again when a container runs.
func (s *Scans) Follow(ctx context.Context, conn *grpc.ClientConn, namespace string, event any) {
	client, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(namespace))
	ctx = namespaces.WithNamespace(ctx, namespace)
	var r Request
	switch e := event.(type) {
	case orchidentity.Created:
		if err == nil {
			r, err = ofContainer(ctx, client, e)
		}
	case *eventsapi.ImageCreate:
		if err == nil {
			r, err = unpacked(ctx, client, e.Name)
		}
	default:
		return
	}
	if err != nil {
		log.G(ctx).WithError(err).Debug("forefend daemon: not scanned ahead")
		return
	}
	if _, _, known := s.recall(r.Key); !known {
		s.Ask(r)
	}
}

var errNoLayers = errors.New("its root filesystem is not made of layers that are directories")

// ofContainer is the scan of a container that has been created: what Admit will ask for.
func ofContainer(ctx context.Context, client *containerd.Client, c orchidentity.Created) (Request, error) {
	v, err := typeurl.UnmarshalAny(c.Spec)
	if err != nil {
		return Request{}, fmt.Errorf("the spec of container %s: %w", c.ID, err)
	}
	spec, ok := v.(*specs.Spec)
	if !ok || spec.Process == nil || c.SnapshotKey == "" {
		return Request{}, fmt.Errorf("container %s: %w", c.ID, errNoLayers)
	}
	mounts, err := client.SnapshotService(c.Snapshotter).Mounts(ctx, c.SnapshotKey)
	if err != nil {
		return Request{}, fmt.Errorf("the layers of container %s: %w", c.ID, err)
	}
	f := workload.Facts{
		Args: spec.Process.Args, Cwd: spec.Process.Cwd, Path: searchPath(spec.Process.Env), Env: workload.DecisiveEnv(spec.Process.Env),
		Rootfs: layers(mounts), Image: c.Of,
	}
	r, ok := RequestOf(f)
	if !ok {
		return r, fmt.Errorf("container %s: %w", c.ID, errNoLayers)
	}
	return r, nil
}

// unpacked is OfImage of an image that may not be unpacked yet.
func unpacked(ctx context.Context, client *containerd.Client, name string) (r Request, err error) {
	tick := time.NewTicker(unpackEvery)
	defer tick.Stop()
	for range unpackTries {
		r, err = OfImage(ctx, client, name, nil)
		if !errdefs.IsNotFound(err) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, err
		case <-tick.C:
		}
	}
	return r, err
}

// OfImage is the scan of a command in an image of containerd, of its own one when args is empty. The error wraps
// errdefs.ErrNotFound when there is no such image or it has not been unpacked.
func OfImage(ctx context.Context, client *containerd.Client, name string, args []string) (Request, error) {
	image, err := client.GetImage(ctx, name)
	if err != nil {
		return Request{}, fmt.Errorf("image %s: %w", name, err)
	}
	config, err := image.Spec(ctx)
	if err != nil {
		return Request{}, fmt.Errorf("read the configuration of image %s: %w", name, err)
	}
	dirs, err := lowers(ctx, client, image)
	if err != nil {
		return Request{}, fmt.Errorf("the layers of image %s: %w", name, err)
	}
	f := factsOf(config.Config, args)
	f.Image.Name, f.Image.Digest = name, image.Target().Digest.String()
	f.Rootfs = append([]string{""}, dirs...) // the place of the container's own layer
	r, ok := RequestOf(f)
	if !ok {
		return r, fmt.Errorf("image %s names no command: %w", name, errdefs.ErrInvalidArgument)
	}
	return r, nil
}

// factsOf is what a container of an image runs when nobody says otherwise.
func factsOf(c ocispec.ImageConfig, args []string) workload.Facts {
	if len(args) == 0 {
		args = slices.Concat(c.Entrypoint, c.Cmd)
	}
	f := workload.Facts{Args: args, Cwd: c.WorkingDir, Path: searchPath(c.Env), Env: workload.DecisiveEnv(c.Env)}
	if f.Cwd == "" {
		f.Cwd = "/"
	}
	if f.Path == "" {
		f.Path = defaultPath
	}
	return f
}

// lowers are the directories of an image's unpacked layers, topmost first. A view of them is made for a moment: its
// directories stay as long as the image does.
func lowers(ctx context.Context, client *containerd.Client, image containerd.Image) ([]string, error) {
	diffs, err := image.RootFS(ctx)
	if err != nil {
		return nil, err
	}
	snapshots := client.SnapshotService("") // the default one
	key := fmt.Sprintf("forefend-scan-%d", time.Now().UnixNano())
	mounts, err := snapshots.View(ctx, key, identity.ChainID(diffs).String())
	if err != nil {
		return nil, err
	}
	if err := snapshots.Remove(ctx, key); err != nil {
		return nil, err
	}
	dirs := layers(mounts)
	if len(dirs) == 0 {
		return nil, errNoLayers
	}
	return dirs, nil
}

// layers are the directories that mounts join; none when they are no such mounts.
func layers(mounts []mount.Mount) []string {
	list := make([]rootfs.Mount, 0, len(mounts))
	for _, m := range mounts {
		list = append(list, rootfs.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	const nowhere = ""
	dirs := rootfs.Layers(list, nowhere)
	if len(dirs) == 1 && dirs[0] == nowhere {
		return nil
	}
	return dirs
}

func searchPath(env []string) (path string) {
	for _, e := range env {
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			path = p
		}
	}
	return path
}
