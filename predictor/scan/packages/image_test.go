package packages

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// The package database of a real Debian image, if the test images are built (make images): no root is needed.
func TestRealDebian(t *testing.T) {
	archive, err := os.Open("../../../.cache/images/nginx.tar")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the test image .cache/images/nginx.tar is not built")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	root := t.TempDir()
	outer := tar.NewReader(archive)
	for {
		h, err := outer.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(h.Name, "blobs/") && h.Size > 1<<20 {
			unpack(t, tar.NewReader(outer), root)
		}
	}
	tree := rootfs.Open([]string{root})
	list, err := Collect(t.Context(), tree, nil, "/")
	if err != nil || len(list) < 50 {
		t.Fatalf("%d packages, %v", len(list), err)
	}
	at := slices.IndexFunc(list, func(p Package) bool { return p.Name == "libc6" })
	if at < 0 || list[at].Ecosystem != "Debian:12" || list[at].Source != "glibc" {
		t.Fatalf("libc6 at %d of %d", at, len(list))
	}
	libc := "/usr/lib/x86_64-linux-gnu/libc.so.6"
	r := newReach(owners{tree: tree}, []evidence.Program{{Path: libc, Kind: "library"}}, "/")
	for _, p := range list {
		if via := r.via(p); (via == libc) != (p.Name == "libc6") {
			t.Errorf("%s is reached by %q", p.Name, via)
		}
	}
}

// unpack takes dpkg's database and the release out of a layer.
func unpack(t *testing.T, layer *tar.Reader, root string) {
	for {
		h, err := layer.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Clean("/" + h.Name)
		if h.Typeflag != tar.TypeReg || !strings.HasPrefix(name, "/var/lib/dpkg/") && name != "/usr/lib/os-release" {
			continue
		}
		path := filepath.Join(root, name)
		if name == "/usr/lib/os-release" {
			path = filepath.Join(root, "/etc/os-release")
		}
		b, err := io.ReadAll(layer)
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
