package eval

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/workload"
)

// scanResult is the JSON of `forefend eval scan`.
type scanResult struct {
	Programs []scanFigure `json:"programs"`
	Missed   int          `json:"missed"`         // in all programs
	Native   float64      `json:"average_native"` // over programs
	Seconds  float64      `json:"slowest_seconds"`
}

// scanFigure is how well one program was predicted.
type scanFigure struct {
	Name      string   `json:"name"`
	Missed    []string `json:"missed"`    // calls that it made and that were not predicted: denied, they would break it
	Predicted int      `json:"predicted"` // calls
	Native    int      `json:"native"`    // calls that the daemon would allow at full speed on a first run
	Seconds   float64  `json:"seconds"`   // of a cold scan, the scanner's start included
	Extra     []string `json:"extra,omitempty"`
	Unknown   int      `json:"unknown"` // places that could not be followed
	Programs  int      `json:"files"`   // whose code may run
	Error     string   `json:"error,omitempty"`
}

func newScanCommand() *cobra.Command {
	var truth, rootfs, scanner string
	var out format
	cmd := &cobra.Command{
		Use:   "scan --truth DIR --rootfs DIR",
		Short: "System calls that static analysis predicts, beside those that programs made",
		Long: "For each NAME.json in the directory of truths (its app.Cmd is the command, $ROOT in it the root filesystem) scans\n" +
			"the command as the daemon does, without any cache, and compares with the calls listed in NAME.truth, or counted\n" +
			"in NAME.json. Missed calls would break the program where what is not predicted is denied; native ones are those\n" +
			"that the daemon's decision about a first run, under the default profile, leaves to the kernel alone.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e := scanEvaluation{rootfs: rootfs, binary: scanner}
			if err := e.findScanner(); err != nil {
				return err
			}
			r, err := e.run(cmd.Context(), truth)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), r, r.text)
		},
	}
	needed(cmd, &truth, "truth", "directory of what programs did")
	needed(cmd, &rootfs, "rootfs", "root filesystem with the programs")
	cmd.Flags().StringVar(&scanner, "scanner", "", "forefend-scan (default: the one beside this program, or in PATH)")
	out.flags(cmd)
	return cmd
}

type scanEvaluation struct {
	rootfs string
	binary string
}

func (e *scanEvaluation) findScanner() error {
	if e.binary != "" {
		return nil
	}
	beside, err := scans.Beside()
	if err == nil {
		e.binary = beside
		return nil
	}
	if e.binary, err = exec.LookPath("forefend-scan"); err != nil {
		return fmt.Errorf("no scanner: build forefend-scan beside forefend, or name it with --scanner: %w", err)
	}
	return nil
}

func (e *scanEvaluation) run(ctx context.Context, dir string) (scanResult, error) {
	truths, err := readTruths(dir, e.rootfs)
	if err != nil {
		return scanResult{}, err
	}
	root, err := filepath.Abs(e.rootfs)
	if err != nil {
		return scanResult{}, fmt.Errorf("root filesystem: %w", err)
	}
	var r scanResult
	for _, t := range truths {
		f := e.one(ctx, root, t)
		r.Programs = append(r.Programs, f)
		r.Missed += len(f.Missed)
		r.Native += float64(f.Native) / float64(len(truths))
		r.Seconds = max(r.Seconds, f.Seconds)
	}
	return r, nil
}

// one scans a program as the daemon would and compares.
func (e *scanEvaluation) one(ctx context.Context, root string, t truth) scanFigure {
	f := scanFigure{Name: t.name, Missed: []string{}}
	start := time.Now()
	s, err := scans.Scanner{Binary: e.binary}.Scan(ctx, scans.Request{Layers: []string{root}, Args: t.command, Cwd: "/"})
	f.Seconds = time.Since(start).Seconds()
	if err != nil {
		f.Error = err.Error()
	}
	f.Predicted, f.Unknown, f.Programs = len(s.Syscalls), len(s.Unknown), len(s.Programs)
	for _, name := range t.calls {
		if !slices.Contains(s.Syscalls, name) {
			f.Missed = append(f.Missed, name)
		}
	}
	for _, name := range s.Syscalls {
		if !slices.Contains(t.calls, name) {
			f.Extra = append(f.Extra, name)
		}
	}
	native, err := nativeCalls(t.command, s)
	if err != nil && f.Error == "" {
		f.Error = err.Error()
	}
	f.Native = len(native)
	return f
}

// nativeCalls are those that a first run of the scanned command would make without being watched: the daemon's decision
// about a container that asks for nothing special.
func nativeCalls(command []string, s evidence.Scan) ([]string, error) {
	d, err := admit.Decide(admit.Input{
		Request: api.AdmitRequest{
			Version: api.Version, ListenerPath: "/run/forefend/evaluation", Kin: true, Own: true,
			Facts: workload.Facts{ID: workload.ID{Namespace: "evaluation", Container: "first-run"}, Args: command},
			Spec:  specs.Spec{Process: &specs.Process{Args: command}, Linux: &specs.Linux{}},
		},
		Availability: api.ByDaemon, Scan: &s, Now: time.Unix(0, 0),
	})
	if err != nil {
		return nil, fmt.Errorf("decide about %s: %w", strings.Join(command, " "), err)
	}
	var native []string
	for _, field := range d.Effective.Fields {
		if field.Key == policy.KeySyscalls && !field.NoValue && field.Value == policy.SyscallNative {
			native = append(native, field.Names...)
		}
	}
	slices.Sort(native)
	return slices.Compact(native), nil
}

func (r scanResult) text(w io.Writer) error {
	fmt.Fprintf(w, "%-16s %6s %9s %6s %8s  %s\n", "PROGRAM", "MISSED", "PREDICTED", "NATIVE", "SECONDS", "MISSED CALLS")
	for _, f := range r.Programs {
		fmt.Fprintf(w, "%-16s %6d %9d %6d %8.3f  %s%s\n", f.Name, len(f.Missed), f.Predicted, f.Native, f.Seconds, strings.Join(f.Missed, " "), f.Error)
	}
	_, err := fmt.Fprintf(w, "%-16s %6d %9s %6.1f %8.3f\n", "all", r.Missed, "", r.Native, r.Seconds)
	return err
}
