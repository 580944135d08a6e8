package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// newActionCommands are freeze, thaw and kill.
func newActionCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newActionCommand(a, api.ActionFreeze, "Stop all processes of a container where they are",
			"Stops all processes of a running container until it is thawed; containerd shows it as paused. Its memory stays,\nits connections wait. It can be killed as it is."),
		newActionCommand(a, api.ActionThaw, "Let a frozen container run on",
			"Lets a container run on that `forefend freeze`, a safeguard or a client's pause stopped."),
		newActionCommand(a, api.ActionKill, "Kill all processes of a container",
			"Kills all processes of a running container, frozen or not. containerd and its clients see it exit with 137."),
	}
}

func newActionCommand(a *app, action api.Action, short, long string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:               string(action) + " CONTAINER",
		Short:             short,
		Long:              long + "\nThe event says who did it and why.",
		Example:           "  forefend " + string(action) + " web-1 --reason 'ticket 4711'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error {
				return a.act(ctx, daemon, args[0], action, reason)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, in `words` that events repeat")
	return cmd
}

func (a *app) act(ctx context.Context, daemon api.Orchestrator, name string, action api.Action, reason string) error {
	id, err := findContainer(ctx, daemon, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, adjustTimeout)
	defer cancel()
	resp, err := daemon.Adjust(ctx, api.AdjustRequest{
		Version: api.Version, ID: id, Action: action, Author: policy.Operator, Source: sourceOf(string(action)), Reason: reason,
	})
	if err != nil {
		return err
	}
	done := action.Event()
	for _, r := range resp.Results {
		if r.Status == api.ResultUnchanged {
			done = "already " + done
		}
	}
	_, err = fmt.Fprintf(a.stdout, "%s: %s\n", id, done)
	return err
}
