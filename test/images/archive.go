package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
)

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	// The layer is not compressed: every test environment imports it, and unpacking gzip took longer than reading.
	mediaLayer = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor points at a blob of the archive.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// writeArchive packs the root filesystem in the tar file rootfs as an OCI archive with one layer and one image,
// docker.io/library/NAME:latest. The archive appears complete or not at all.
func writeArchive(path, rootfs, name string, config imageConfig) error {
	layer, err := makeLayer(path+".layer", rootfs)
	if err != nil {
		return err
	}
	defer os.Remove(path + ".layer")

	blobs, manifest, err := metadata(name, config, layer)
	if err != nil {
		return err
	}
	tmp, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	defer os.Remove(path + ".tmp")
	defer tmp.Close()
	tw := tar.NewWriter(tmp)
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []descriptor{manifest},
	})
	if err != nil {
		return err
	}
	if err := add(tw, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := add(tw, "index.json", index); err != nil {
		return err
	}
	for _, b := range blobs {
		if err := add(tw, blobPath(digest(b)), b); err != nil {
			return err
		}
	}
	if err := addFile(tw, blobPath(layer.Digest), path+".layer", layer.Size); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// makeLayer writes the layer blob of rootfs to path.
func makeLayer(path, rootfs string) (descriptor, error) {
	in, err := os.Open(rootfs)
	if err != nil {
		return descriptor{}, err
	}
	defer in.Close()
	out, err := os.Create(path)
	if err != nil {
		return descriptor{}, err
	}
	defer out.Close()
	h := sha256.New()
	if err := copyLayer(io.MultiWriter(out, h), in); err != nil {
		return descriptor{}, err
	}
	size, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: mediaLayer, Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Size: size}
	return d, out.Close()
}

// metadata returns the configuration and manifest blobs of an image with one layer, and the manifest's descriptor.
func metadata(name string, config imageConfig, layer descriptor) (blobs [][]byte, manifest descriptor, err error) {
	p := platform{Architecture: runtime.GOARCH, OS: "linux"}
	c, err := json.Marshal(map[string]any{
		"architecture": p.Architecture, "os": p.OS, "created": buildTime.UTC(), "config": config,
		// Without compression a layer's digest is also its diff id.
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{layer.Digest}},
		"history": []any{map[string]any{"created": buildTime.UTC(), "created_by": "test/images"}},
	})
	if err != nil {
		return nil, descriptor{}, err
	}
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaManifest,
		"config": descriptor{MediaType: mediaConfig, Digest: digest(c), Size: int64(len(c))},
		"layers": []descriptor{layer},
	})
	if err != nil {
		return nil, descriptor{}, err
	}
	manifest = descriptor{
		MediaType: mediaManifest, Digest: digest(m), Size: int64(len(m)), Platform: &p,
		Annotations: map[string]string{
			"io.containerd.image.name":          "docker.io/library/" + name + ":latest",
			"org.opencontainers.image.ref.name": "latest",
		},
	}
	return [][]byte{c, m}, manifest, nil
}

func digest(b []byte) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(b))
}

func blobPath(digest string) string {
	return "blobs/sha256/" + digest[len("sha256:"):]
}

func add(tw *tar.Writer, name string, content []byte) error {
	return addStream(tw, name, bytes.NewReader(content), int64(len(content)))
}

func addFile(tw *tar.Writer, name, path string, size int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return addStream(tw, name, f, size)
}

func addStream(tw *tar.Writer, name string, r io.Reader, size int64) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: buildTime}); err != nil {
		return err
	}
	_, err := io.Copy(tw, r)
	return err
}
