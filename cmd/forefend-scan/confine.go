package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"forefend.dev/forefend/predictor/scan/sandbox"
)

// nobody is whom the sandbox makes of root.
const nobody = 65534

// confine gives up everything that the scan does not need. A kernel that lacks a part of the sandbox is no reason to
// stop, the other parts hold, but is told with the scan.
func confine(in *input) (lacking string, err error) {
	limits, parented := sandbox.FromParent(os.Getenv(sandbox.ParentVariable))
	c := sandbox.Confinement{Parented: parented, Limits: limits, Read: in.reads()}
	if in.req.Cache != "" {
		if in.req.Cache, err = ownCache(in.req.Cache); err != nil {
			return "", err
		}
		c.Write = []string{in.req.Cache}
	}
	err = sandbox.Enter(c)
	if errors.Is(err, sandbox.ErrUnsupported) {
		return err.Error(), nil
	}
	return "", err
}

// reads are the paths outside the container that the scan reads: the layers that exist, and the advisories.
func (in *input) reads() []string {
	var paths []string
	for _, dir := range in.dirs {
		if _, err := os.Stat(dir); err == nil {
			paths = append(paths, dir)
		}
	}
	if in.osv != "" {
		paths = append(paths, in.osv)
	}
	return paths
}

// ownCache makes the scanner's part of the cache directory, which alone is its own to write. The directory that was
// given keeps its owner and mode: it may be shared.
func ownCache(dir string) (string, error) {
	own := filepath.Join(dir, "scan")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("scan cache: %w", err)
	}
	if err := os.Mkdir(own, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("scan cache: %w", err)
	}
	info, err := os.Lstat(own)
	if err != nil {
		return "", fmt.Errorf("scan cache: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("scan cache: %s is not a directory", own)
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(own, nobody, nobody); err != nil {
			return "", fmt.Errorf("scan cache: %w", err)
		}
	}
	return own, nil
}
