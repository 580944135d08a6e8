package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// compareTurns is how often each side runs when COUNT does not say; benchstat wants six. They alternate.
const compareTurns = 6

// compareBenchmarks runs the Go benchmarks of a git ref and of the working tree in turn and prints what benchstat
// makes of them.
func compareBenchmarks(ctx context.Context, out io.Writer, base string, turns int) (err error) {
	dir, err := os.MkdirTemp("", "ffbase")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := checkOut(ctx, base, dir); err != nil {
		return fmt.Errorf("BASE=%s: %w", base, err)
	}
	sides := []struct{ tree, results string }{{dir, filepath.Join(dir, "base.txt")}, {".", filepath.Join(dir, "work.txt")}}
	for turn := range turns {
		fmt.Fprintf(out, "turn %d of %d\n", turn+1, turns)
		for _, side := range sides {
			if err := goBenchmarks(ctx, side.tree, side.results); err != nil {
				return err
			}
		}
	}
	stat := exec.CommandContext(ctx, "go", "tool", "benchstat", base+"="+sides[0].results, "work="+sides[1].results)
	stat.Stdout, stat.Stderr = out, os.Stderr
	return stat.Run()
}

// checkOut writes a ref's files to dir without touching the repository's state.
func checkOut(ctx context.Context, ref, dir string) error {
	archive := filepath.Join(dir, "base.tar")
	if _, err := outputOf(exec.CommandContext(ctx, "git", "archive", "--output", archive, ref)); err != nil {
		return err
	}
	_, err := outputOf(exec.CommandContext(ctx, "tar", "-x", "-f", archive, "-C", dir))
	return err
}

// goBenchmarks appends the results of one run to a file. Benchmarks that need root are skipped by themselves.
func goBenchmarks(ctx context.Context, tree, results string) error {
	f, err := os.OpenFile(results, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "0.3s", "-benchmem", "./...")
	cmd.Dir, cmd.Stdout, cmd.Stderr = tree, f, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("benchmarks in %s: %w", tree, err)
	}
	return nil
}
