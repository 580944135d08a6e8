package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func newExplainCommand(a *app) *cobra.Command {
	var image imageQuestion
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "explain CONTAINER | --image REF [-- COMMAND [ARG...]]",
		Short: "Say what a container may do, who decided each value, why, and what lost",
		Long: "Explains the policy of CONTAINER (ID or NAMESPACE/ID), running or gone. With --image it explains\n" +
			"what a container of that image would get, asked for as `ctr run` does, before it ever ran;\n" +
			"nothing is recorded.",
		Example:           "  forefend explain web-1\n  forefend explain --image docker.io/library/redis:7 -- redis-server --save ''",
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case image.ref == "" && (image.user != "" || image.group != "" || image.namespace != ""):
				return usage(cmd, errors.New("--user, --group and --namespace go with --image; name a container as NAMESPACE/ID"))
			case image.ref == "" && len(args) != 1:
				return usage(cmd, fmt.Errorf("one container is explained at a time, %d were named", len(args)))
			case image.ref != "" && len(args) > 0 && cmd.ArgsLenAtDash() != 0:
				return usage(cmd, errors.New("with --image, the command comes after \"--\""))
			}
			image.args = args
			return a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error {
				decision, err := a.decision(ctx, daemon, image, args)
				if err != nil {
					return err
				}
				var agent *api.Agent
				if image.ref == "" {
					agent = agentOf(ctx, daemon, decision)
				}
				if asJSON {
					return output.JSON(a.stdout, explanation{forPrograms(decision), agent})
				}
				return a.printDecision(decision, agent, all)
			})
		},
	}
	cmd.Flags().StringVar(&image.ref, "image", "", "explain a container of this image that never ran")
	cmd.Flags().StringVar(&image.namespace, "namespace", "", "containerd namespace of the image")
	cmd.Flags().StringVar(&image.user, "user", "", "as if this `user` ran it")
	cmd.Flags().StringVar(&image.group, "group", "", "as if this `group` ran it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&all, "all", false, "print long lists whole")
	return cmd
}

func (a *app) decision(ctx context.Context, daemon api.Orchestrator, image imageQuestion, args []string) (api.Decision, error) {
	if image.ref != "" {
		progress := output.NewProgress(a.stderr)
		defer progress.Done()
		progress.Step("asking containerd about " + image.ref)
		req, err := image.request(ctx)
		if err != nil {
			return api.Decision{}, err
		}
		c, err := a.config()
		if err != nil {
			return api.Decision{}, err
		}
		req.ListenerPath = filepath.Join(c.NotifyDir(), unborn) // where the shim would listen
		progress.Step("asking the daemon")
		return ask(ctx, func(ctx context.Context) (api.Decision, error) { return daemon.Admit(ctx, req) })
	}
	id, err := findContainer(ctx, daemon, args[0])
	if err != nil {
		return api.Decision{}, err
	}
	return ask(ctx, func(ctx context.Context) (api.Decision, error) {
		return daemon.Explain(ctx, api.ExplainRequest{ID: id})
	})
}

// agentOf says how it stands with the agent of a container that runs; nil: it does not, or nobody can tell. The sockets that
// it sees are left to `forefend agent`.
func agentOf(ctx context.Context, daemon api.Orchestrator, d api.Decision) *api.Agent {
	agent, err := ask(ctx, func(ctx context.Context) (api.Agent, error) {
		return daemon.Agent(ctx, api.AgentRequest{Version: api.Version, ID: d.Facts.ID})
	})
	if err != nil {
		return nil
	}
	agent.Listening, agent.Connections, agent.Left = nil, nil, 0
	return &agent
}
