package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// The runtimes that are compared.
const (
	forefendRuntime = "io.containerd.forefend.v1"
	stockRuntime    = "io.containerd.runc.v2"
)

// ctr runs ctr and returns what it printed.
func (d *demo) ctr(ctx context.Context, args ...string) (string, error) {
	return outputOf(d.env.CtrCommand(ctx, args...))
}

// forefend runs the CLI and returns what it printed.
func (d *demo) forefend(ctx context.Context, args ...string) (string, error) {
	return outputOf(d.env.ForefendCommand(ctx, args...))
}

// forefendJSON runs a command of the CLI with --json into v.
func (d *demo) forefendJSON(ctx context.Context, v any, args ...string) error {
	text, err := d.forefend(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return fmt.Errorf("read the JSON of forefend %s: %w", args[0], err)
	}
	return nil
}

// inNetwork runs a program of this machine inside a container's network namespace.
func inNetwork(ctx context.Context, pid uint32, name string, args ...string) (string, error) {
	enter := []string{"--net", "--target", strconv.Itoa(int(pid)), name}
	return outputOf(exec.CommandContext(ctx, "nsenter", append(enter, args...)...))
}

func outputOf(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err,
			strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
