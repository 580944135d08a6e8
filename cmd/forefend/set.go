package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// adjustTimeout bounds a change of a running container, with the time that its shim may take.
const adjustTimeout = 40 * time.Second

// adjustFlags are those of every command that changes a running container.
type adjustFlags struct {
	reason  string
	dryRun  bool
	reclaim bool
	asJSON  bool
}

func (f *adjustFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, in `words` that explain and events repeat")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "decide and show it; change nothing")
	cmd.Flags().BoolVar(&f.reclaim, "reclaim", false, "make room for a memory limit below what is in use")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
}

func newSetCommand(a *app) *cobra.Command {
	var f adjustFlags
	cmd := &cobra.Command{
		Use:   "set CONTAINER KEY=VALUE…",
		Short: "Change what a running container may do, until it ends",
		Long: "Changes the policy of a running container. Keys and values are those of the annotations\n" +
			"(memory=256Mi, syscalls.deny=ptrace,bpf), or a member of a family with its value\n(syscalls/ptrace=deny).\n" +
			"All of one command is one change: decided against the guardrails as a whole, applied side by side.",
		Example:           "  forefend set web-1 memory=256Mi pids=100\n  forefend set web-1 syscalls.deny=ptrace --reason 'ticket 4711'\n  forefend set web-1 memory=64Mi --dry-run",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.AdjustRequest{Set: make(map[string]string)}
			for _, arg := range args[1:] {
				key, value, ok := strings.Cut(arg, "=")
				if _, twice := req.Set[key]; !ok || key == "" || twice {
					return usage(cmd, fmt.Errorf("%q: each setting is KEY=VALUE, and has a key of its own", arg))
				}
				req.Set[strings.TrimPrefix(key, policy.Prefix)] = value
			}
			return a.adjust(cmd.Context(), args[0], req, f)
		},
	}
	f.add(cmd)
	return cmd
}

func newUnsetCommand(a *app) *cobra.Command {
	var f adjustFlags
	cmd := &cobra.Command{
		Use:   "unset CONTAINER KEY…",
		Short: "Take back what was set of a running container",
		Long: "Takes back what `forefend set` has claimed of the keys: the policy is then as it would be without.\n" +
			"A family (syscalls), a list (syscalls.deny) or one member (syscalls/ptrace) can be named.",
		Example:           "  forefend unset web-1 memory syscalls/ptrace",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.adjust(cmd.Context(), args[0], api.AdjustRequest{Unset: args[1:]}, f)
		},
	}
	f.add(cmd)
	return cmd
}

func newResetCommand(a *app) *cobra.Command {
	var f adjustFlags
	cmd := &cobra.Command{
		Use:               "reset CONTAINER",
		Short:             "Take back all that was set of a running container",
		Long:              "Takes back all that `forefend set` has claimed. What others changed stays.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.adjust(cmd.Context(), args[0], api.AdjustRequest{Reset: true}, f)
		},
	}
	f.add(cmd)
	return cmd
}

func newRollbackCommand(a *app) *cobra.Command {
	var f adjustFlags
	cmd := &cobra.Command{
		Use:   "rollback CONTAINER [REVISION]",
		Short: "Take back the last change of a running container, or all after a revision",
		Long: "Takes back what operators have changed after REVISION, by default their last change. Revision 1 is\nthe " +
			"decision at creation; `forefend explain` lists the changes. A rollback can be taken back, too.",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			revision := 0
			if len(args) == 2 {
				var err error
				if revision, err = strconv.Atoi(args[1]); err != nil || revision < 1 {
					return usage(cmd, fmt.Errorf("%q is not a revision: a number from 1", args[1]))
				}
			}
			return a.adjust(cmd.Context(), args[0], api.AdjustRequest{Rollback: revision}, f)
		},
	}
	f.add(cmd)
	return cmd
}

// adjust sends a change and shows what became of it. A rollback without a revision is the operator's last change.
func (a *app) adjust(ctx context.Context, name string, req api.AdjustRequest, f adjustFlags) error {
	req.Version, req.Author, req.Source, req.Reason = api.Version, policy.Operator, sourceOf("set"), f.reason
	req.DryRun, req.Reclaim, req.Brief = f.dryRun, f.reclaim, !f.asJSON
	return a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) error {
		id, err := findContainer(ctx, daemon, name)
		if err != nil {
			return err
		}
		req.ID = id
		if len(req.Set)+len(req.Unset)+req.Rollback == 0 && !req.Reset {
			if req.Rollback, err = beforeLast(ctx, daemon, req); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, adjustTimeout)
		defer cancel()
		resp, err := daemon.Adjust(ctx, req)
		if err != nil {
			return err
		}
		if f.asJSON {
			err = output.JSON(a.stdout, adjustForPrograms(resp))
		} else {
			err = a.printAdjusted(resp, f.dryRun)
		}
		if err == nil && failed(resp.Results) {
			err = errQuiet
		}
		return err
	})
}

// person is who runs the command; "": its name is not known.
func person() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// sourceOf names a command and who runs it, as explain and events show it.
func sourceOf(command string) string {
	source := "forefend " + command
	if who := person(); who != "" {
		source += " by " + who
	}
	return source
}

// beforeLast is the revision before the operators' last change.
func beforeLast(ctx context.Context, daemon api.Orchestrator, req api.AdjustRequest) (int, error) {
	d, err := ask(ctx, func(ctx context.Context) (api.Decision, error) {
		return daemon.Explain(ctx, api.ExplainRequest{ID: req.ID})
	})
	if err != nil {
		return 0, err
	}
	for i := len(d.Changes) - 1; i >= 0; i-- {
		if d.Changes[i].Author == req.Author {
			return d.Changes[i].Revision - 1, nil
		}
	}
	return 0, errors.New("nothing was set of this container: there is no change to take back")
}

func failed(results []api.Result) bool {
	for _, r := range results {
		if r.Status == api.ResultRefused || r.Status == api.ResultFailed {
			return true
		}
	}
	return false
}

// adjusted is an AdjustResponse for programs.
type adjusted struct {
	Revision int                 `json:"revision"`
	Results  []api.Result        `json:"results"`
	Decision decisionForPrograms `json:"decision"`
}

func adjustForPrograms(r api.AdjustResponse) adjusted {
	if r.Results == nil {
		r.Results = []api.Result{}
	}
	return adjusted{r.Decision.Revision, r.Results, forPrograms(r.Decision)}
}

func (a *app) printAdjusted(r api.AdjustResponse, dryRun bool) error {
	page := output.NewPage(a.stdout)
	if len(r.Results) == 0 {
		page.Line(0, fmt.Sprintf("No value is another; revision %d is in force.", r.Decision.Revision))
		return page.Err()
	}
	for _, res := range r.Results {
		head := fmt.Sprintf("%-14s%-10s", res.Lever, res.Status)
		if !dryRun {
			head += fmt.Sprintf("%9s", output.Took(res.Took))
		}
		page.Item(0, head, changedAt, strings.Join(res.Changed, ", "))
		if res.Reason != "" {
			page.Item(0, "", changedAt, res.Reason)
		}
	}
	switch {
	case dryRun:
	case api.Vain(r.Results):
		page.Line(0, fmt.Sprintf("Nothing was changed; revision %d is in force.", r.Decision.Revision))
	default:
		page.Line(0, fmt.Sprintf("Revision %d is in force.", r.Decision.Revision))
	}
	return page.Err()
}

// changedAt is the column where results say what changed.
const changedAt = 35

// completeSettings offers containers, then keys.
func (a *app) completeSettings(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeContainers(cmd, args, prefix)
	}
	names := policy.SettingNames()
	if cmd.Name() == "unset" {
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	for i := range names {
		names[i] += "="
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
