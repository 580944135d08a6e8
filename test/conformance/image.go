package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is one image with everything it consists of.
type image struct {
	manifest []byte
	config   ocispec.Image
	layers   []ocispec.Descriptor
	blobs    map[digest.Digest][]byte
}

func (i image) digest() digest.Digest { return digest.FromBytes(i.manifest) }

// readArchive reads an OCI archive that holds one image, as test/images writes it.
func readArchive(file string) (image, error) {
	f, err := os.Open(file)
	if err != nil {
		return image{}, fmt.Errorf("%w (run make images)", err)
	}
	defer f.Close()
	img := image{blobs: make(map[digest.Digest][]byte)}
	var index ocispec.Index
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return image{}, fmt.Errorf("%s: %w", file, err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			return image{}, fmt.Errorf("%s: %w", file, err)
		}
		switch {
		case h.Name == "index.json":
			err = json.Unmarshal(body, &index)
		case strings.HasPrefix(h.Name, "blobs/sha256/"):
			img.blobs[digest.NewDigestFromEncoded(digest.SHA256, path.Base(h.Name))] = body
		}
		if err != nil {
			return image{}, fmt.Errorf("%s: %s: %w", file, h.Name, err)
		}
	}
	if len(index.Manifests) != 1 {
		return image{}, fmt.Errorf("%s holds %d images, want 1", file, len(index.Manifests))
	}
	img.manifest = img.blobs[index.Manifests[0].Digest]
	var m ocispec.Manifest
	if err := json.Unmarshal(img.manifest, &m); err != nil {
		return image{}, fmt.Errorf("%s: manifest: %w", file, err)
	}
	img.layers = m.Layers
	if err := json.Unmarshal(img.blobs[m.Config.Digest], &img.config); err != nil {
		return image{}, fmt.Errorf("%s: configuration: %w", file, err)
	}
	return img, nil
}

// change is what sets an image apart from the one it is made of.
type change struct {
	user    string
	cmd     []string
	volumes []string
	label   string            // makes it another image, with the same contents
	files   map[string]string // by path below the root; a name that ends in "/" is a directory
	owner   int               // user and group of the files
	modes   map[string]int64  // of files that are not 0644
}

// with returns a new image that differs from i by c.
func (i image) with(c change) (image, error) {
	out := image{config: i.config, layers: i.layers, blobs: make(map[digest.Digest][]byte, len(i.blobs)+3)}
	for d, b := range i.blobs {
		out.blobs[d] = b
	}
	if c.user != "" {
		out.config.Config.User = c.user
	}
	if c.cmd != nil {
		out.config.Config.Cmd = c.cmd
	}
	for _, v := range c.volumes {
		if out.config.Config.Volumes == nil {
			out.config.Config.Volumes = make(map[string]struct{})
		}
		out.config.Config.Volumes[v] = struct{}{}
	}
	if c.label != "" {
		out.config.Config.Labels = map[string]string{"variant": c.label}
	}
	if len(c.files) > 0 {
		layer, err := layerOf(c)
		if err != nil {
			return image{}, err
		}
		d := digest.FromBytes(layer)
		out.blobs[d] = layer
		out.layers = append(out.layers[:len(out.layers):len(out.layers)],
			ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(layer))})
		ids := out.config.RootFS.DiffIDs
		out.config.RootFS.DiffIDs = append(ids[:len(ids):len(ids)], d)
	}
	config, err := json.Marshal(out.config)
	if err != nil {
		return image{}, err
	}
	d := digest.FromBytes(config)
	out.blobs[d] = config
	out.manifest, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: out.layers,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: d, Size: int64(len(config))},
	})
	if err != nil {
		return image{}, err
	}
	out.blobs[out.digest()] = out.manifest
	return out, nil
}

func layerOf(c change) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range sortedKeys(c.files) {
		body := c.files[name]
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg, Uid: c.owner, Gid: c.owner}
		if m, ok := c.modes[name]; ok {
			h.Mode = m
		}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(tw, body); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
