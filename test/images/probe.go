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

// growerName is likewise that of a program that takes memory as it is told.
const growerName = "grower"

// buildStatic compiles one of the programs below test/images as the static binary path. Go's build cache makes a second call
// cheap. The binary says nothing of the commit, or every commit would make the images anew.
func buildStatic(ctx context.Context, name, path string) error {
	compiler := cmp.Or(os.Getenv("GO"), "go") // make's GO
	cmd := exec.CommandContext(ctx, compiler, "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path,
		"forefend.dev/forefend/test/images/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return nil
}
