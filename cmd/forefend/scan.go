package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/forefend/scans"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/admit"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// scanQuestion is a command line of `forefend scan`.
type scanQuestion struct {
	rootfs    []string
	namespace string
	env       []string
	cwd       string
	asJSON    bool
	all       bool
}

func newScanCommand(a *app) *cobra.Command {
	var q scanQuestion
	cmd := &cobra.Command{
		Use:   "scan IMAGE [-- COMMAND [ARG...]] | --rootfs DIR -- COMMAND [ARG...]",
		Short: "Say what a command will do and need, without running anything",
		Long: "Analyses a command of an image that containerd has unpacked (the image's own one unless another\n" +
			"is given), or of a root filesystem: the system calls it may reach, capabilities, ports, memory,\n" +
			"resource sinks, packages and their vulnerabilities. The scanner runs locked in. What was found for\n" +
			"an image is kept for the daemon, which scans by itself when an image or a container is created.",
		Example: "  forefend scan docker.io/library/redis:7\n  forefend scan nginx -- nginx -g 'daemon off;'\n  forefend scan --rootfs ./rootfs -- /bin/server",
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case len(q.rootfs) > 0 && (dash != 0 || len(args) == 0):
				return usage(cmd, errors.New("with --rootfs, only a command follows, after \"--\""))
			case len(q.rootfs) == 0 && (len(args) == 0 || dash == 0 || dash > 1 || dash < 0 && len(args) > 1):
				return usage(cmd, errors.New("one image is scanned at a time, its command comes after \"--\""))
			case len(q.rootfs) == 0 && (len(q.env) > 0 || q.cwd != ""):
				return usage(cmd, errors.New("--env and --cwd go with --rootfs; an image has its own"))
			case len(q.rootfs) > 0 && q.namespace != "":
				return usage(cmd, errors.New("--namespace goes with an image"))
			}
			s, err := a.scan(cmd.Context(), q, args)
			if err != nil {
				return err
			}
			if q.asJSON {
				return output.JSON(a.stdout, s)
			}
			return a.printScan(s, q.all)
		},
	}
	cmd.Flags().StringArrayVar(&q.rootfs, "rootfs", nil, "root filesystem, or a layer of it: topmost first")
	cmd.Flags().StringVar(&q.namespace, "namespace", "", "containerd namespace of the image")
	cmd.Flags().StringArrayVar(&q.env, "env", nil, "`NAME=VALUE` of the command's environment")
	cmd.Flags().StringVar(&q.cwd, "cwd", "", "working directory of the command")
	cmd.Flags().BoolVar(&q.asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&q.all, "all", false, "print long lists whole")
	return cmd
}

func (a *app) scan(ctx context.Context, q scanQuestion, args []string) (*evidence.Scan, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	scanner, err := scannerOf(cfg)
	if err != nil {
		return nil, err
	}
	progress := output.NewProgress(a.stderr)
	defer progress.Done()
	var r scans.Request
	if len(q.rootfs) > 0 {
		for _, dir := range q.rootfs {
			abs, err := filepath.Abs(dir) // the scanner has another working directory
			if err != nil {
				return nil, fmt.Errorf("root filesystem %s: %w", dir, err)
			}
			if info, err := os.Stat(abs); err != nil || !info.IsDir() {
				return nil, fmt.Errorf("root filesystem %s is not a directory: %w", dir, cmp.Or(err, os.ErrInvalid))
			}
			r.Layers = append(r.Layers, abs)
		}
		r.Args, r.Env, r.Cwd = args, q.env, q.cwd
	} else {
		progress.Step("asking containerd about " + args[0])
		if r, err = q.ofImage(ctx, args[0], args[1:]); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() != 0 {
		scanner.Cache = "" // the daemon's, root's alone
	}
	progress.Step("scanning " + strings.Join(r.Args, " "))
	return scans.Once(ctx, scanner, cfg.ScansDir(), cfg.Scan.Cache, r)
}

// ofImage finds an image under the names that people use.
func (q scanQuestion) ofImage(ctx context.Context, ref string, args []string) (scans.Request, error) {
	ns := cmp.Or(q.namespace, defaultNamespace())
	address := cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), defaultContainerd)
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, ns), callTimeout)
	defer cancel()
	if _, err := os.Stat(address); err != nil { // the client would wait for it to appear
		return scans.Request{}, fmt.Errorf("no containerd listens on %s (CONTAINERD_ADDRESS names another): %w", address, err)
	}
	client, err := containerd.New(address, containerd.WithTimeout(callTimeout))
	if err != nil {
		return scans.Request{}, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	defer client.Close()
	image, err := findImage(ctx, client, ref)
	if err != nil {
		return scans.Request{}, err
	}
	return scans.OfImage(ctx, client, image.Name(), args)
}

// printScan prints a scan for people.
func (a *app) printScan(s *evidence.Scan, all bool) error {
	page := output.NewPage(a.stdout)
	page.Item(0, "Command", factAt, output.Printable(strings.Join(s.Command, " ")))
	page.Item(0, "Program", factAt, strings.TrimSpace(s.Entry+"  "+s.Arch))
	page.Item(0, "Took", factAt, fmt.Sprintf("%.2f s, %d files known before", s.Seconds, s.Cached))
	scanLines(page, admit.Summary(s), all)
	if len(s.Unknown) > 0 {
		page.Heading("Not followed")
		for _, u := range s.Unknown[:shown(len(s.Unknown), all)] {
			page.Item(2, "-", 4, u.Where+": "+u.Why)
		}
		more(page, len(s.Unknown), all)
	}
	if len(s.Programs) > 0 {
		page.Heading("Files whose code may run")
		for _, p := range s.Programs[:shown(len(s.Programs), all)] {
			page.Item(2, "-", 4, fmt.Sprintf("%s (%s, %s)", p.Path, p.Kind, p.Via))
		}
		more(page, len(s.Programs), all)
	}
	return page.Err()
}

func shown(n int, all bool) int {
	if all || n <= folded+1 {
		return n
	}
	return folded
}

func more(page *output.Page, n int, all bool) {
	if rest := n - shown(n, all); rest > 0 {
		page.Line(4, fmt.Sprintf("and %d more (--all)", rest))
	}
}

// scanLines prints what a scan says, as scan and explain show it.
func scanLines(page *output.Page, s *api.Scan, all bool) {
	page.Heading("Static analysis")
	complete := "complete"
	if s.Unfollowed > 0 {
		complete = fmt.Sprintf("%s could not be followed", plural(s.Unfollowed, "place"))
	}
	page.Item(2, "reaches", valueAt, fmt.Sprintf("%s in %s; %s", plural(len(s.Syscalls), "system call"), plural(s.Programs, "file"), complete))
	list(page, "calls", s.Syscalls, all)
	for i, u := range s.Unknown {
		if i == 3 && !all {
			break
		}
		page.Item(2, "not followed", valueAt, u.Where+": "+u.Why)
	}
	for _, c := range s.Capabilities {
		page.Item(2, "capability", valueAt, c.Name+": "+c.Why)
	}
	for _, p := range s.Ports {
		page.Item(2, "listens on", valueAt, fmt.Sprintf("%s/%d: %s", p.Protocol, p.Number, p.Why))
	}
	if m := s.Memory; m.Typical > 0 || m.Runtime != "" {
		page.Item(2, "memory", valueAt, fmt.Sprintf("%s: typically %s, one in a hundred over %s; %s", cmp.Or(m.Runtime, "unknown runtime"),
			output.Bytes(int64(m.Typical)), output.Bytes(int64(m.High)), m.Basis))
	}
	for _, k := range s.Sinks {
		page.Item(2, "resource sink", valueAt, fmt.Sprintf("%s (%s, severity %.2f): %s: %s", k.Kind, k.Resource, k.Severity, k.Where, k.Why))
	}
	if s.Packages > 0 || s.Vulnerable > 0 {
		page.Item(2, "packages", valueAt, fmt.Sprintf("%d, %s known, %d of them reachable", s.Packages, vulnerabilities(s.Vulnerable), len(s.Vulnerabilities)))
	}
	for i, v := range s.Vulnerabilities {
		if i == folded && !all {
			page.Line(valueAt, fmt.Sprintf("and %d more (--all)", len(s.Vulnerabilities)-folded))
			break
		}
		page.Item(2, "reachable", valueAt, vulnerability(v))
	}
	for _, e := range s.Errors {
		page.Item(2, "failed", valueAt, e)
	}
}

func vulnerabilities(n int) string {
	if n == 1 {
		return "1 vulnerability"
	}
	return fmt.Sprintf("%d vulnerabilities", n)
}

func vulnerability(v evidence.Vulnerability) string {
	fixed := "not fixed yet"
	if v.Fixed != "" {
		fixed = "fixed in " + v.Fixed
	}
	text := fmt.Sprintf("%s in %s %s, severity %.1f, %s", v.ID, v.Package, v.Version, v.Severity, fixed)
	if v.Exploited > 0 {
		text += ", exploited with probability " + output.Percent(v.Exploited)
	}
	return text
}
