package main

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// file is one entry of an image that is made without packages. A path that ends in "/" is a directory; otherwise one
// of link, from and text says what the entry holds.
type file struct {
	path string
	mode int64
	link string // target of a symbolic link
	from string // file of this machine to copy
	text string
}

const busyboxPath = "/bin/busybox"

// accounts are the users that tests name; an image without them could only run as a number.
var accounts = []file{
	{path: "etc/", mode: 0o755},
	{path: "etc/passwd", mode: 0o644, text: "root:x:0:0:root:/root:/bin/sh\n" +
		"www-data:x:33:33:www-data:/var/www:/bin/false\nuser:x:1000:1000:user:/home:/bin/sh\n" +
		"nobody:x:65534:65534:nobody:/:/bin/false\n"},
	{path: "etc/group", mode: 0o644, text: "root:x:0:\nwww-data:x:33:\nuser:x:1000:\nnogroup:x:65534:\n"},
}

// staticFiles is an image with nothing but one static binary: no shell, no libc, no accounts.
func staticFiles(dir string) []file {
	return []file{{path: "probe", mode: 0o755, from: filepath.Join(dir, probeName)}}
}

// growerFiles is an image with nothing but the program that takes memory.
func growerFiles(dir string) []file {
	return []file{{path: growerName, mode: 0o755, from: filepath.Join(dir, growerName)}}
}

// busyboxFiles is a small image with a shell, made of Debian's static busybox and a link for each of its programs.
func busyboxFiles(string) []file {
	files := append([]file{
		{path: "bin/", mode: 0o755},
		{path: "bin/busybox", mode: 0o755, from: busyboxPath},
		{path: "sbin", mode: 0o777, link: "bin"},
		{path: "usr/", mode: 0o755},
		{path: "usr/bin", mode: 0o777, link: "../bin"},
		{path: "usr/sbin", mode: 0o777, link: "../bin"},
		{path: "root/", mode: 0o700},
		{path: "home/", mode: 0o755},
		{path: "tmp/", mode: 0o1777},
	}, accounts...)
	list, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return files // key() reads the same binary next and reports that it is missing
	}
	for name := range strings.FieldsSeq(string(list)) {
		if name != "busybox" {
			files = append(files, file{path: "bin/" + name, mode: 0o777, link: "busybox"})
		}
	}
	return files
}

// writeFiles writes files as the tar file path.
func writeFiles(path string, files []file) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	tw := tar.NewWriter(out)
	for _, f := range files {
		if err := f.write(tw); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return out.Close()
}

func (f file) write(tw *tar.Writer) error {
	h := &tar.Header{Name: f.path, Mode: f.mode, Typeflag: tar.TypeReg}
	switch {
	case strings.HasSuffix(f.path, "/"):
		h.Typeflag = tar.TypeDir
		return tw.WriteHeader(h)
	case f.link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		return tw.WriteHeader(h)
	case f.from != "":
		return f.copy(tw, h)
	}
	h.Size = int64(len(f.text))
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(tw, f.text)
	return err
}

func (f file) copy(tw *tar.Writer, h *tar.Header) error {
	in, err := os.Open(f.from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	h.Size = info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, in)
	return err
}
