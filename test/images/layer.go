package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// buildTime is the time of every entry that has a younger one, so that a layer depends on contents alone.
var buildTime = time.Unix(1767225600, 0)

// emptied are directories whose contents belong to the machine that built the image, or to a running container.
var emptied = []string{"dev", "proc", "sys", "run", "tmp", "var/cache", "var/log", "var/lib/apt/lists", "etc/apt"}

// dropped are files that a runtime provides, or that name this host.
var dropped = []string{"etc/hostname", "etc/resolv.conf", "etc/machine-id", ".dockerenv"}

// copyLayer copies a root filesystem from the tar stream r to w as an image layer. Hard links, symbolic links, owners,
// modes and extended attributes (file capabilities) stay; device nodes and what only this host knows do not.
func copyLayer(w io.Writer, r io.Reader) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return fmt.Errorf("read root filesystem: %w", err)
		}
		if !keep(h) {
			continue
		}
		normalize(h)
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", h.Name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return fmt.Errorf("write %s: %w", h.Name, err)
		}
	}
}

func keep(h *tar.Header) bool {
	name := path.Clean("/" + h.Name)[1:]
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
	default: // devices and pipes: the runtime makes those a container may have
		return false
	}
	for _, d := range dropped {
		if name == d {
			return false
		}
	}
	for _, d := range emptied {
		if strings.HasPrefix(name, d+"/") {
			// Servers expect their own directory below these.
			return h.Typeflag == tar.TypeDir && d != "dev" && d != "etc/apt"
		}
	}
	return true
}

// normalize removes what differs between two builds of the same contents.
func normalize(h *tar.Header) {
	h.Name = strings.TrimPrefix(h.Name, "./")
	if h.Name == "" {
		h.Name = "./"
	}
	if h.Typeflag == tar.TypeLink {
		h.Linkname = strings.TrimPrefix(h.Linkname, "./")
	}
	h.Uname, h.Gname = "", "" // numbers count inside an image
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	if h.ModTime.After(buildTime) || h.ModTime.Unix() == 0 {
		h.ModTime = buildTime
	}
	h.ModTime = h.ModTime.Truncate(time.Second)
	for k := range h.PAXRecords {
		if !strings.HasPrefix(k, "SCHILY.xattr.") {
			delete(h.PAXRecords, k)
		}
	}
	h.Format = tar.FormatPAX
}
