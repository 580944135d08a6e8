package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
)

// probeName is the file name of the static binary in the output directory.
const probeName = "probe"

// buildProbe compiles test/images/probe as the static binary path. Go's build cache makes a second call cheap. The
// binary says nothing of the commit, or every commit would make the images anew.
func buildProbe(ctx context.Context, path string) error {
	compiler := cmp.Or(os.Getenv("GO"), "go") // make's GO
	cmd := exec.CommandContext(ctx, compiler, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path,
		"forefend.dev/forefend/test/images/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build probe: %w\n%s", err, out)
	}
	return nil
}
