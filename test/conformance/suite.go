package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// suite runs a test binary against an environment and reads how its tests ended. only selects tests by their full
// names, in the suite's own language.
type suite struct {
	run  func(ctx context.Context, e *harness.Env, o options, handler string) (results, error)
	only func(names []string) string
}

var suites = map[string]suite{
	"critest":    {runCritest, anyOf},
	"containerd": {runContainerdSuite, topLevel},
}

// anyOf is a regular expression for exactly these names.
func anyOf(names []string) string {
	quoted := make([]string, 0, len(names))
	for _, n := range names {
		quoted = append(quoted, regexp.QuoteMeta(n)+"$")
	}
	return strings.Join(quoted, "|")
}

// topLevel is a regular expression for the Go tests that these names are of or below.
func topLevel(names []string) string {
	var tests []string
	for _, n := range names {
		test, _, _ := strings.Cut(n, "/")
		tests = append(tests, "^"+test+"$")
	}
	slices.Sort(tests)
	return strings.Join(slices.Compact(tests), "|")
}

// notHere are tests of containerd's suite that look for the daemon by its name to kill it, or need plugins and shims
// that its own build makes for them.
const notHere = "TestContainerdRestart|TestReload100Pods|TestRunPodSandbox.*Rollback|TestRunPodSandbox.*Failpoint|TestNRI|TestNri|TestUpgrade|TestRelease|" +
	"TestIssue|TestCRIImagePullTimeout|TestImageLoad|TestRunPodSandboxAndTeardownCNISlow"

func runContainerdSuite(ctx context.Context, e *harness.Env, o options, handler string) (results, error) {
	log := filepath.Join(o.out, handler+".log")
	skip := notHere
	if o.skip != "" {
		skip += "|" + o.skip
	}
	args := []string{"tool", "test2json", "-t", filepath.Join(e.BinDir, "containerd-cri.test"), "-test.v=test2json", "-test.run=" + o.focus, "-test.skip=" + skip,
		"-cri-endpoint=unix://" + e.Address, "-runtime-handler=" + handler, "-containerd-bin=none-by-this-name"}
	if err := runBinary(ctx, e, "go", log, args...); err != nil {
		return nil, err
	}
	return readGoTest(log)
}

func runCritest(ctx context.Context, e *harness.Env, o options, handler string) (results, error) {
	report := filepath.Join(o.out, handler+".json")
	args := []string{
		"-test.timeout=0", "-config=" + os.DevNull,
		"-runtime-endpoint=unix://" + e.Address, "-image-endpoint=unix://" + e.Address, "-runtime-handler=" + handler,
		"-ginkgo.json-report=" + report, "-ginkgo.no-color", "-ginkgo.seed=1", "-ginkgo.timeout=2h", // the same order for all
	}
	if o.focus != "" {
		args = append(args, "-ginkgo.focus="+o.focus)
	}
	if o.skip != "" {
		args = append(args, "-ginkgo.skip="+o.skip)
	}
	if err := runBinary(ctx, e, filepath.Join(e.BinDir, "critest"), filepath.Join(o.out, handler+".log"), args...); err != nil {
		return nil, err
	}
	return readGinkgo(report)
}

// runBinary runs a test binary in the environment's network, its output going to a file. That tests of it fail is no
// error.
func runBinary(ctx context.Context, e *harness.Env, binary, log string, args ...string) error {
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = e.Dir
	cmd.Env = append(os.Environ(), "PATH="+e.BinDir+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 10 * time.Second
	if err := e.InNetwork(cmd.Start); err != nil {
		return fmt.Errorf("%w (run make setup-conformance)", err)
	}
	err = cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return nil
	}
	return err
}
