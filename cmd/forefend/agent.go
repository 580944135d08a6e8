package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
)

// agentTimeout bounds the question for an agent, which may have to be injected first.
const agentTimeout = 15 * time.Second

func newAgentCommand(a *app) *cobra.Command {
	var now, asJSON bool
	cmd := &cobra.Command{
		Use:   "agent CONTAINER",
		Short: "Show the agent of a container: how it is, and the sockets it sees",
		Long: "Shows how it stands with the control agent in a container's network namespace, and the sockets in\n" +
			"there: who listens, and what is connected. A container gets its agent some time after its start\n" +
			"([agent] delay); one that still waits is injected by --now.",
		Example:           "  forefend agent web-1\n  forefend agent web-1 --now --json",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askAgent(cmd.Context(), args[0], api.AgentRequest{Now: now}, func(found api.Agent) error {
				if asJSON {
					return output.JSON(a.stdout, found)
				}
				return a.printAgent(found)
			})
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "inject an agent that still waits")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// askAgent asks about the agent of a container, as a person names it, and shows the answer.
func (a *app) askAgent(ctx context.Context, container string, r api.AgentRequest, show func(api.Agent) error) error {
	return a.withDaemon(ctx, func(ctx context.Context, daemon api.Orchestrator) error {
		id, err := findContainer(ctx, daemon, container)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, agentTimeout)
		defer cancel()
		r.Version, r.ID = api.Version, id
		found, err := daemon.Agent(ctx, r)
		if err != nil {
			return err
		}
		return show(found)
	})
}

func (a *app) printAgent(g api.Agent) error {
	page := output.NewPage(a.stdout)
	fact := func(lead, text string) {
		if text != "" {
			page.Item(0, lead, factAt, text)
		}
	}
	status := g.Status
	if g.Status != api.AgentRunning && g.Reason != "" {
		status += ": " + g.Reason
	}
	fact("Agent", status)
	if g.PID != 0 {
		fact("Process", fmt.Sprintf("%d, user %d, %s", g.PID, uint32(g.UID), strings.Join(g.Capabilities, " ")))
		fact("Build", g.Build)
		fact("Up", fmt.Sprintf("%s, CPU %s, memory %s, %d files", g.Uptime.Round(time.Second), output.Took(g.CPU),
			policy.KeyMemory.Format(policy.Value(g.Memory)), g.Files))
		fact("Works", strings.Join(g.Features, ", "))
	}
	for _, d := range g.Degraded {
		fact("Degraded", d)
	}
	if g.Restarts > 0 {
		fact("Replaced", fmt.Sprintf("%d×, the last time because %s", g.Restarts, g.Reason))
	}
	for _, kind := range slices.Sorted(maps.Keys(g.Faults)) {
		fact("Fault", fmt.Sprintf("%s, %d×", kind, g.Faults[kind]))
	}
	fact("Says", g.Says)
	for _, w := range g.Ways {
		when := "attached on first use"
		if w.Ahead {
			when = fmt.Sprintf("attached before the start, as predicted; all within %s", output.Took(g.AheadTook))
		}
		fact("Tunnel", fmt.Sprintf("%s: asked for %d×, %s", output.Printable(w.Way), w.Asked, when))
	}
	sockets := func(heading string, list []api.Socket) {
		if len(list) == 0 {
			return
		}
		page.Heading(heading)
		for _, s := range list {
			page.Line(2, strings.TrimRight(fmt.Sprintf("%-5s %-12s %-28s %s", s.Protocol, s.State, s.Local, s.Remote), " "))
		}
	}
	sockets("Listening", g.Listening)
	sockets("Connections", g.Connections)
	if g.Left > 0 {
		page.Line(2, fmt.Sprintf("and %d more", g.Left))
	}
	return page.Err()
}
