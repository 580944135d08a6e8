package scan

import (
	"context"
	"errors"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// Request is what to scan.
type Request struct {
	Command []string // as in the container's process.args
	Env     []string // NAME=value, as in process.env; PATH and LD_LIBRARY_PATH matter
	Cwd     string   // working directory inside the container; empty: /
	Cache   string   // directory that remembers objects by content; empty: nothing is remembered
}

// Analyze fills the command, program and system call fields of s.
func Analyze(ctx context.Context, root rootfs.Tree, req Request, s *evidence.Scan) error {
	if len(req.Command) == 0 {
		return errors.New("scan: no command")
	}
	s.Version, s.Command = evidence.ScanVersion, req.Command
	return errors.New("scan: not there yet")
}
