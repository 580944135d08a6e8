package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/cmd/internal/config/techniques"
	"forefend.dev/forefend/netns/gate"
	"forefend.dev/forefend/predictor/threat"
)

func newThreatCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "threat",
		Short: "What threat feeds say, as the daemon reads them",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newThreatListCommand(a), newThreatCheckCommand(a))
	return cmd
}

// readFeeds reads the feeds of the configuration, as the daemon does.
func (a *app) readFeeds() (*threat.Feeds, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	f := threat.NewFeeds(threat.Options{Dirs: cfg.FeedDirs(), HalfLife: cfg.Threats.HalfLife,
		Techniques: techniques.Shipped(), ParseTechniques: techniques.Parse})
	f.Reload(a.now())
	return f, nil
}

func newThreatListCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the feeds, their age and what is wrong with them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.readFeeds()
			if err != nil {
				return err
			}
			s := f.Status()
			if asJSON {
				return output.JSON(cmd.OutOrStdout(), s)
			}
			page := output.NewPage(a.stdout)
			for _, feed := range s.Feeds {
				page.Item(0, "", 0, fmt.Sprintf("%s: %s, %s old, %d prefixes, %d names, %d expired, %d ignored  %s", feed.Name, feed.Format,
					max(a.now().Sub(feed.Time), 0).Round(time.Minute), feed.Prefixes, feed.Names, feed.Expired, feed.Ignored, feed.File))
			}
			page.Item(0, "", 0, fmt.Sprintf("%d feeds, %d prefixes, %d names, %d attack patterns", len(s.Feeds), s.Prefixes, s.Names, s.Techniques))
			page.Item(0, "", 0, a.feedsInKernel())
			for _, p := range s.Problems {
				page.Item(0, "", 0, p.String())
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// feedsInKernel says whether containers' gates look for what is listed.
func (a *app) feedsInKernel() string {
	cfg, err := a.config()
	if err != nil {
		return "in the kernel: not known: " + err.Error()
	}
	inForce, err := gate.FeedsInForce(cfg.GatesDir())
	switch {
	case inForce:
		return "in force in the kernel, for all containers: egress.feeds says whether a contact is blocked or seen"
	case errors.Is(err, fs.ErrNotExist) || err == nil:
		return "not in force in the kernel: nothing is listed, no daemon has loaded it, or this node has no gates (forefend doctor)"
	}
	return "in the kernel: not known: " + err.Error()
}

func newThreatCheckCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check DESTINATION...",
		Short: "Ask whether addresses, domains, URLs or hashes are listed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := a.readFeeds()
			if err != nil {
				return err
			}
			found := f.Set().Contacts(a.now(), args...)
			if asJSON {
				return output.JSON(cmd.OutOrStdout(), found)
			}
			page := output.NewPage(a.stdout)
			for _, c := range found {
				page.Item(0, "", 0, fmt.Sprintf("%s is listed as %s by %s, confidence %.2f, line %d of %s", c.Destination, c.Indicator, c.Feed, c.Confidence, c.Line, c.File))
			}
			if len(found) == 0 {
				fmt.Fprintln(a.stdout, "not listed")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
