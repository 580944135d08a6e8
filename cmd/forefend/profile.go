package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

func newProfileCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "What users and groups did and may request; what was learned, exported",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newProfileListCommand(a), newProfileShowCommand(a), newProfileExportCommand(a))
	return cmd
}

func newProfileListCommand(a *app) *cobra.Command {
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List users, then groups, the least trusted first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 10_000 {
				return usage(cmd, fmt.Errorf("--limit %d: not between 1 and 10000", limit))
			}
			resp, err := a.profiles(cmd.Context(), api.ProfileRequest{Limit: limit})
			if err != nil {
				return err
			}
			if asJSON {
				if resp.Standings == nil {
					resp.Standings = []evidence.Standing{}
				}
				return output.JSON(a.stdout, resp)
			}
			return a.printStandings(resp.Standings)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most `N` users and N groups")
	return cmd
}

// standingJSON is what profile show prints for programs.
type standingJSON struct {
	evidence.Standing
	Profile string   `json:"profile"` // of config.toml
	May     []string `json:"may"`     // annotations may loosen these
	Guards  []string `json:"guardrails"`
}

func newProfileShowCommand(a *app) *cobra.Command {
	var asJSON, group bool
	cmd := &cobra.Command{
		Use: "show USER", Short: "Show one user, or with --group one group", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := policy.CheckIdentity(args[0]); err != nil {
				return usage(cmd, fmt.Errorf("%q: %w", args[0], err))
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			resp, err := a.profiles(cmd.Context(), api.ProfileRequest{Name: args[0], Group: group})
			if err != nil {
				return err
			}
			s := evidence.Standing{Trust: 0.5, Why: "never seen before"}
			if len(resp.Standings) > 0 {
				s = resp.Standings[0]
			}
			if s.User, s.Group = args[0], ""; group {
				s.User, s.Group = "", args[0]
			}
			out := standingJSON{Standing: s}
			out.Profile, out.May, out.Guards = allowed(cfg, s)
			if asJSON {
				return output.JSON(a.stdout, out)
			}
			return a.printStanding(out)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&group, "group", false, "a group, not a user")
	return cmd
}

func (a *app) profiles(ctx context.Context, req api.ProfileRequest) (resp api.ProfileResponse, err error) {
	err = a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) error {
		resp, err = ask(ctx, func(ctx context.Context) (api.ProfileResponse, error) { return daemon.Profile(ctx, req) })
		return err
	})
	if errdefs.IsNotImplemented(err) {
		return resp, errors.Join(err, errors.New("the running daemon is of an earlier release: forefend daemon --takeover"))
	}
	return resp, err
}

// allowed is what the site's profile for a user or group lets them request.
func allowed(cfg *config.Config, s evidence.Standing) (name string, may, guards []string) {
	p := cfg.Site.Profile(s.User, s.Group)
	may, guards = []string{}, []string{}
	for _, k := range p.Grants {
		may = append(may, string(k))
	}
	for _, g := range append(cfg.Site.Guards[:len(cfg.Site.Guards):len(cfg.Site.Guards)], p.Guards...) {
		text := string(g.Key)
		if g.Floor != nil {
			text += " at least " + g.Key.Format(*g.Floor)
		}
		if g.Ceiling != nil {
			text += " at most " + g.Key.Format(*g.Ceiling)
		}
		guards = append(guards, text)
	}
	return p.Name, may, guards
}

func (a *app) printStandings(standings []evidence.Standing) error {
	page := output.NewPage(a.stdout)
	if len(standings) == 0 {
		page.Line(0, "Nobody has run anything yet.")
		return page.Err()
	}
	t := output.NewTable(output.Column{Name: "USER", Min: 8}, output.Column{Name: "GROUP", Min: 8}, output.Column{Name: "TRUST", Right: true},
		output.Column{Name: "RUNS", Right: true}, output.Column{Name: "DENIED", Note: "runs", Right: true}, output.Column{Name: "ANOMALIES", Right: true},
		output.Column{Name: "CONTACTS", Right: true}, output.Column{Name: "OOM", Right: true}, output.Column{Name: "FAILED", Right: true},
		output.Column{Name: "ASKS", Note: "x used", Right: true})
	for _, s := range standings {
		t.Row(s.User, s.Group, fmt.Sprintf("%.2f", s.Trust), fmt.Sprint(s.Runs), fmt.Sprint(s.Denied), fmt.Sprint(s.Anomalies), fmt.Sprint(s.Contacts),
			fmt.Sprint(s.OOMKilled), fmt.Sprint(s.Failed), ratio(s.OverAsking))
	}
	page.Table(t)
	return page.Err()
}

func ratio(r float64) string {
	if r <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", r)
}

func (a *app) printStanding(s standingJSON) error {
	page := output.NewPage(a.stdout)
	for _, who := range []struct{ lead, name string }{{"User", s.User}, {"Group", s.Group}} {
		if who.name != "" {
			page.Item(0, who.lead, factAt, who.name)
		}
	}
	page.Item(0, "Trust", factAt, fmt.Sprintf("%.2f of 1 (a stranger has 0.50)", s.Trust))
	page.Item(0, "Did", factAt, s.Why)
	page.Item(0, "Profile", factAt, s.Profile)
	list := func(lead, none string, items []string) {
		if len(items) == 0 {
			items = []string{none}
		}
		for i, item := range items {
			if i > 0 {
				lead = ""
			}
			page.Item(0, lead, factAt, item)
		}
	}
	list("May loosen", "nothing: annotations only tighten", s.May)
	list("Guardrails", "none", s.Guards)
	return page.Err()
}
