package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// defaultContainerd is where containerd listens unless CONTAINERD_ADDRESS says otherwise.
const defaultContainerd = "/run/containerd/containerd.sock"

// unborn is the id of a container that never ran.
const unborn = "explain"

// imageQuestion asks about a container that never ran.
type imageQuestion struct {
	ref, namespace, user, group string
	args                        []string
}

// request asks containerd for the image and builds what the shim would send if `ctr run` were given it.
func (q imageQuestion) request(ctx context.Context) (api.AdmitRequest, error) {
	q.namespace = cmp.Or(q.namespace, defaultNamespace())
	address := cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), defaultContainerd)
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, q.namespace), callTimeout)
	defer cancel()
	if _, err := os.Stat(address); err != nil { // the client would wait for it to appear
		return api.AdmitRequest{}, fmt.Errorf("no containerd listens on %s (CONTAINERD_ADDRESS names another): %w", address, err)
	}
	client, err := containerd.New(address, containerd.WithTimeout(callTimeout))
	if err != nil {
		return api.AdmitRequest{}, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	defer client.Close()
	image, err := findImage(ctx, client, q.ref)
	if err != nil {
		return api.AdmitRequest{}, err
	}
	wanted, err := image.Spec(ctx)
	if err != nil {
		return api.AdmitRequest{}, fmt.Errorf("read the configuration of image %s: %w", q.ref, err)
	}
	facts := workload.Facts{
		ID:         workload.ID{Namespace: q.namespace, Container: unborn},
		Kind:       workload.KindContainer,
		Image:      imageFacts(image),
		User:       q.user,
		Group:      cmp.Or(q.group, q.namespace),
		Containerd: address,
	}
	return q.admit(ctx, facts, wanted.Config)
}

// findImage accepts the short names that docker does, as ctr does not.
func findImage(ctx context.Context, client *containerd.Client, ref string) (containerd.Image, error) {
	for _, name := range candidates(ref) {
		image, err := client.GetImage(ctx, name)
		if err == nil {
			return image, nil
		}
		if !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("ask containerd for image %s: %w", ref, err)
		}
	}
	ns, _ := namespaces.Namespace(ctx)
	return nil, fmt.Errorf("containerd has no image %s in namespace %s (ctr image pull, or --namespace): %w", ref, ns, errdefs.ErrNotFound)
}

func candidates(ref string) []string {
	names := []string{ref}
	if !strings.Contains(ref[strings.LastIndexByte(ref, '/')+1:], ":") && !strings.Contains(ref, "@") {
		names = append(names, ref+":latest")
	}
	if host, _, ok := strings.Cut(ref, "/"); !ok || !strings.ContainsAny(host, ".:") {
		prefix := "docker.io/"
		if !ok {
			prefix = "docker.io/library/"
		}
		for _, n := range slices.Clone(names) {
			names = append(names, prefix+n)
		}
	}
	return names
}

func imageFacts(image containerd.Image) workload.Image {
	name := image.Name()
	repository, _, _ := strings.Cut(name, "@")
	if slash := strings.LastIndexByte(repository, '/'); strings.LastIndexByte(repository, ':') > slash {
		repository = repository[:strings.LastIndexByte(repository, ':')]
	}
	return workload.Image{Name: name, Repository: repository, Digest: image.Target().Digest.String(), Labels: image.Labels()}
}

// admit completes the facts from the image's configuration and makes the dry run.
func (q imageQuestion) admit(ctx context.Context, facts workload.Facts, config ocispec.ImageConfig) (api.AdmitRequest, error) {
	facts.Args = slices.Concat(config.Entrypoint, config.Cmd)
	if len(q.args) > 0 {
		facts.Args = q.args // ctr run replaces the entrypoint too
	}
	if len(facts.Args) == 0 {
		return api.AdmitRequest{}, fmt.Errorf("image %s names no command: give one after \"--\"", q.ref)
	}
	spec, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: facts.ID.Container}, oci.WithDefaultUnixDevices,
		oci.WithProcessArgs(facts.Args...), oci.WithProcessCwd(cmp.Or(config.WorkingDir, "/")))
	if err != nil {
		return api.AdmitRequest{}, fmt.Errorf("make the spec that ctr run would: %w", err)
	}
	// A user by name can only be looked up in the root filesystem, which a container that never ran does not have.
	if uid, err := strconv.ParseUint(strings.SplitN(config.User, ":", 2)[0], 10, 32); err == nil {
		spec.Process.User.UID = uint32(uid)
	}
	facts.UID, facts.Cwd = spec.Process.User.UID, spec.Process.Cwd
	facts.Path = searchPath(append(spec.Process.Env, config.Env...))
	spec.Process.Env, spec.Mounts = nil, nil // no decision needs them: secrets stay out of the daemon
	facts.Annotations = q.annotations()
	spec.Annotations = facts.Annotations
	return api.AdmitRequest{Version: api.Version, Facts: facts, Spec: *spec, Kin: true, DryRun: true}, nil
}

func (q imageQuestion) annotations() map[string]string {
	m := make(map[string]string)
	if q.user != "" {
		m[policy.AnnotationUser] = q.user
	}
	if q.group != "" {
		m[policy.AnnotationGroup] = q.group
	}
	return m
}

// searchPath returns the last PATH of an environment.
func searchPath(env []string) (path string) {
	for _, e := range env {
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			path = p
		}
	}
	return path
}
