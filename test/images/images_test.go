package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDebLines(t *testing.T) {
	// What apt-get indextargets says on a machine with Debian's own and somebody else's sources.
	targets := `http://mirror.test/debian/ bookworm main
http://mirror.test/debian/ bookworm contrib
http://mirror.test/debian/ bookworm main
http://mirror.test/debian/ bookworm-updates main
http://mirror.test/debian/ bookworm-backports main
http://mirror.test/security/ bookworm-security main
https://vendor.test/apt/ vendor-bookworm main
https://vendor.test/node/ nodistro main
garbage
`
	want := []string{
		"deb http://mirror.test/debian/ bookworm main\n",
		"deb http://mirror.test/debian/ bookworm-updates main\n",
		"deb http://mirror.test/security/ bookworm-security main\n",
	}
	if got := debLines(targets, "bookworm"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestInRootQuotes(t *testing.T) {
	if got, want := inRoot(`echo 'a b'`), `chroot "$1" /bin/sh -euc 'echo '\''a b'\'''`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// entry is one thing of a root filesystem as mmdebstrap writes it.
type entry struct {
	tar.Header
	content string
}

func pack(t *testing.T, entries []entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func unpack(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	found := make(map[string]entry)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = entry{*h, string(b)}
	}
}

func TestCopyLayer(t *testing.T) {
	old, young := buildTime.Add(-time.Hour), buildTime.Add(time.Hour)
	const capability = "SCHILY.xattr.security.capability"
	rootfs := []entry{
		{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}},
		{Header: tar.Header{Name: "./dev/pts/", Typeflag: tar.TypeDir, Mode: 0o755}},
		{Header: tar.Header{Name: "./dev/fd", Typeflag: tar.TypeSymlink, Linkname: "/proc/self/fd"}},
		{Header: tar.Header{Name: "./etc/hostname", Mode: 0o644}, content: "builder"},
		{Header: tar.Header{Name: "./etc/apt/sources.list", Mode: 0o644}, content: "deb http://mirror.test/ x main"},
		{Header: tar.Header{Name: "./var/log/app/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 33, Uname: "www-data"}},
		{Header: tar.Header{Name: "./var/log/app/x.log", Mode: 0o644}, content: "x"},
		{Header: tar.Header{Name: "./usr/bin/ping", Mode: 0o4755, ModTime: young, PAXRecords: map[string]string{capability: "\x01\x00caps", "APPENDED.junk": "x"}}, content: "ELF"},
		{Header: tar.Header{Name: "./usr/bin/ping6", Typeflag: tar.TypeLink, Linkname: "./usr/bin/ping"}},
		{Header: tar.Header{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin", ModTime: old}},
	}
	var out bytes.Buffer
	if err := copyLayer(&out, pack(t, rootfs)); err != nil {
		t.Fatal(err)
	}
	got := unpack(t, &out)

	var names []string
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	if want := []string{"./", "bin", "usr/bin/ping", "usr/bin/ping6", "var/log/app/"}; !slices.Equal(names, want) {
		t.Fatalf("entries %q, want %q", names, want)
	}
	ping := got["usr/bin/ping"]
	if ping.content != "ELF" || ping.Mode != 0o4755 || !ping.ModTime.Equal(buildTime) {
		t.Errorf("ping: %+v", ping)
	}
	if ping.PAXRecords[capability] != "\x01\x00caps" || ping.PAXRecords["APPENDED.junk"] != "" {
		t.Errorf("ping's records: %q", ping.PAXRecords)
	}
	if l := got["usr/bin/ping6"]; l.Typeflag != tar.TypeLink || l.Linkname != "usr/bin/ping" {
		t.Errorf("hard link: %+v", l)
	}
	if l := got["bin"]; l.Typeflag != tar.TypeSymlink || l.Linkname != "usr/bin" || !l.ModTime.Equal(old) {
		t.Errorf("symbolic link: %+v", l)
	}
	if d := got["var/log/app/"]; d.Uid != 33 || d.Uname != "" || d.Mode != 0o750 {
		t.Errorf("directory: %+v", d)
	}
}

// TestBuildOnce builds an image of files, reads the archive back as a registry client would, and checks when it is
// built again.
func TestBuildOnce(t *testing.T) {
	dir := t.TempDir()
	contents := "one"
	r := recipe{
		name: "tiny",
		files: func(string) []file {
			return []file{{path: "etc/", mode: 0o755}, {path: "etc/x", mode: 0o600, text: contents}}
		},
		config: imageConfig{User: "redis", Cmd: []string{"/x"}},
	}
	archive := filepath.Join(dir, "tiny.tar")
	if err := buildOnce(t.Context(), dir, r); err != nil {
		t.Fatal(err)
	}
	first := readFile(t, archive)
	checkArchive(t, first, "tiny", contents)

	if err := os.WriteFile(archive, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := buildOnce(t.Context(), dir, r); err != nil {
		t.Fatal(err)
	}
	if string(readFile(t, archive)) != "untouched" {
		t.Error("built again although nothing changed")
	}
	contents = "two"
	if err := buildOnce(t.Context(), dir, r); err != nil {
		t.Fatal(err)
	}
	checkArchive(t, readFile(t, archive), "tiny", contents)
	contents = "one"
	if err := buildOnce(t.Context(), dir, r); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, readFile(t, archive)) {
		t.Error("the same contents gave another archive")
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// checkArchive follows every descriptor from the index to the one file of the layer.
func checkArchive(t *testing.T, archive []byte, name, contents string) {
	t.Helper()
	blobs := unpack(t, bytes.NewReader(archive))
	var index struct{ Manifests []descriptor }
	decode(t, blobs["index.json"].content, &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/library/"+name+":latest" {
		t.Fatalf("index: %+v", index)
	}
	follow := func(d descriptor) string {
		content := blobs[blobPath(d.Digest)].content
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content))); got != d.Digest || int64(len(content)) != d.Size {
			t.Fatalf("%+v points at %d bytes with digest %s", d, len(content), got)
		}
		return content
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	decode(t, follow(index.Manifests[0]), &manifest)
	var config struct {
		Config imageConfig
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, follow(manifest.Config), &config)
	if config.Config.User != "redis" || len(manifest.Layers) != 1 || !slices.Equal(config.Rootfs.DiffIDs, []string{manifest.Layers[0].Digest}) {
		t.Errorf("config %+v, layers %+v", config, manifest.Layers)
	}
	layer := unpack(t, strings.NewReader(follow(manifest.Layers[0])))
	if x := layer["etc/x"]; x.content != contents || x.Mode != 0o600 {
		t.Errorf("etc/x: %+v", x)
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

func TestChoose(t *testing.T) {
	if _, err := choose([]string{"redis", "nosuch"}); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("got %v", err)
	}
	all, err := choose(nil)
	if err != nil || len(all) != len(recipes)-2 || slices.ContainsFunc(all, func(r recipe) bool { return r.onDemand }) {
		t.Errorf("all: %d, %v", len(all), err)
	}
	if large, err := choose([]string{"apps"}); err != nil || len(large) != 1 {
		t.Errorf("on demand: %v, %v", large, err)
	}
	one, err := choose([]string{"redis"})
	if err != nil || len(one) != 1 || one[0].name != "redis" {
		t.Errorf("one: %v, %v", one, err)
	}
}
