package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func newPolicyAuditCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "What was decided about outbound requests, by classes, with counts",
		Long: "Lists the classes of decisions that the daemon made since it began: for which workload, by which rules,\n" +
			"with which outcome, how often, first and last. Of a daemon that decides for other nodes, theirs too.\n" +
			"VERSION is that of the rules: the store's number (forefend policy versions), or of a directory the beginning of\n" +
			"its files' digest. It counts decisions, not requests: whoever keeps a decision does not ask again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var found api.AuditResponse
			err := a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) (err error) {
				audits, ok := daemon.(api.Audits)
				if !ok {
					return errdefs.ErrNotImplemented
				}
				found, err = ask(ctx, audits.Audit)
				return err
			})
			switch {
			case errdefs.IsNotImplemented(err):
				return errors.New("the daemon decides about no outbound requests: [egress] of its config.toml names no rules")
			case err != nil:
				return err
			case asJSON:
				if found.Classes == nil {
					found.Classes = []flow.Class{}
				}
				return output.JSON(a.stdout, found)
			}
			return a.printAudit(found)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printAudit(found api.AuditResponse) error {
	page := output.NewPage(a.stdout)
	if len(found.Classes) == 0 {
		page.Line(0, "Nothing has been decided yet.")
		return page.Err()
	}
	t := output.NewTable(output.Column{Name: "NODE"}, output.Column{Name: "WORKLOAD", Min: 8}, output.Column{Name: "OUTCOME", Min: 8},
		output.Column{Name: "RULES", Min: 8}, output.Column{Name: "VERSION"}, output.Column{Name: "DECISIONS", Right: true}, output.Column{Name: "FIRST"}, output.Column{Name: "LAST"})
	for _, c := range found.Classes {
		t.Row(cmp.Or(c.Node, "(this one)"), c.Workload, profileText(c.Profile), cmp.Or(strings.Join(c.Rules, ", "), "(default)"), shortDigest(c.RuleVersion), fmt.Sprint(c.Count),
			output.Age(a.now().Sub(c.First))+" ago", output.Age(a.now().Sub(c.Last))+" ago")
	}
	page.Table(t)
	if found.Dropped > 0 {
		page.Line(0, fmt.Sprintf("and %d decisions of classes that are not kept any more", found.Dropped))
	}
	return page.Err()
}
