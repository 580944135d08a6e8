package main

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// registry serves images read-only, under every name they have anywhere: containerd is told to look here first,
// whatever registry an image's name begins with.
type registry struct {
	images map[string]image // by repository and tag, without the registry: "pause:3.9"
	blobs  map[digest.Digest][]byte
	types  map[digest.Digest]string
}

func newRegistry(images map[string]image) *registry {
	r := &registry{images: images, blobs: make(map[digest.Digest][]byte), types: make(map[digest.Digest]string)}
	for _, i := range images {
		maps.Copy(r.blobs, i.blobs)
		r.types[i.digest()] = ocispec.MediaTypeImageManifest
	}
	return r
}

// ServeHTTP answers the two requests of a pull: a manifest by tag or digest, and a blob.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok || req.Method != http.MethodGet && req.Method != http.MethodHead {
		http.NotFound(w, req)
		return
	}
	var d digest.Digest
	repository, reference, ok := strings.Cut(path, "/manifests/")
	if ok {
		d = digest.Digest(reference)
		if i, ok := r.images[repository+":"+reference]; ok {
			d = i.digest()
		}
	} else if _, reference, ok = strings.Cut(path, "/blobs/"); ok {
		d = digest.Digest(reference)
	}
	body, ok := r.blobs[d]
	if !ok {
		http.NotFound(w, req)
		return
	}
	kind := r.types[d]
	if kind == "" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Header().Set("Docker-Content-Digest", d.String())
	if req.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}

// serve starts the registry in e's network and makes e's containerd pull from it.
func (r *registry) serve(e *harness.Env) (*http.Server, error) {
	var listener net.Listener
	err := e.InNetwork(func() (err error) {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: r}
	go func() { _ = server.Serve(listener) }() // ends with Close
	dir := filepath.Join(e.RegistryConfig(), "_default")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	hosts := fmt.Sprintf("[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", listener.Addr())
	return server, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
