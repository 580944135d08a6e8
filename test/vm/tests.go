package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"forefend.dev/forefend/test/vm/wire"
)

// compile builds the tests of packages on this machine (the guest would take twenty times as long) and returns the
// steps that run them, each in its package's directory.
func (o options) compile(ctx context.Context, repo string, packages []string) ([]wire.Step, error) {
	list := exec.CommandContext(ctx, goTool(), append([]string{"list", "-f", "{{.Dir}} {{.ImportPath}}"}, packages...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var steps []wire.Step
	for line := range strings.Lines(string(out)) {
		dir, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		binary, err := testBinary(repo, dir)
		if err != nil {
			return nil, err
		}
		build := exec.CommandContext(ctx, goTool(), "test", "-c", "-o", binary, ".")
		build.Dir, build.Stdout, build.Stderr = dir, os.Stdout, os.Stderr
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("compile the tests of %s: %w", dir, err)
		}
		if _, err := os.Stat(binary); err != nil {
			return nil, fmt.Errorf("%s has no tests", dir)
		}
		steps = append(steps, wire.Step{Name: name, Dir: dir, Args: append([]string{binary}, o.testFlags()...)})
	}
	return steps, nil
}

// testFlags: nothing comes from a cache, and a test that hangs shows where before the machine is ended.
func (o options) testFlags() []string {
	flags := []string{"-test.count=1", "-test.timeout=" + (o.timeout * 9 / 10).String()}
	if o.run != "" {
		flags = append(flags, "-test.run="+o.run)
	}
	if o.verbose {
		flags = append(flags, "-test.v")
	}
	return flags
}

// testBinary is where the tests of the package in dir are compiled to: test-e2e.test for test/e2e.
func testBinary(repo, dir string) (string, error) {
	rel, err := filepath.Rel(repo, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s is not inside the repository", dir)
	}
	return filepath.Join(repo, ".cache/vm/tests", strings.ReplaceAll(rel, "/", "-")+".test"), nil
}

func goTool() string {
	if path := os.Getenv("GO"); path != "" {
		return path
	}
	return "go"
}
