package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func newFlowsCommand(a *app) *cobra.Command {
	var asJSON, counters, verify bool
	cmd := &cobra.Command{
		Use:   "flows CONTAINER",
		Short: "Show a container's outbound connections: for whom, by which rule and tunnel",
		Long: "Shows the outbound connections of a container that its agent takes, and of HTTP/2 each open stream:\n" +
			"what the last request was for, which rules decided, by which tunnel it leaves, whether the kernel's\n" +
			"word on that was read back, and how many bytes went each way. A user with \"!\" is proved by a token,\n" +
			"one with \"?\" claimed by a header. With --counters it shows what was counted of all of them since the\n" +
			"agent began, queries for names among them. It is the agent's word. VERSION is that of the rules that\n" +
			"decided: the store's number, or of a directory the beginning of its files' digest.\n\n" +
			"With --verify it is compared with the word of the gateways: their signed receipts of each connection. What\n" +
			"contradicts them is an event (receipt), is ended, and raises the container's risk (docs/gateway.md).",
		Example:           "  forefend flows web-1\n  forefend flows web-1 --counters\n  forefend flows web-1 --json\n  forefend flows web-1 --verify",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askAgent(cmd.Context(), args[0], api.AgentRequest{Flows: true, Verify: verify}, func(found api.Agent) error {
				if found.Flows == nil {
					return fmt.Errorf("the outbound connections of %s are not intercepted: %s", args[0], cmp.Or(found.Reason, "no policy of egress holds for it"))
				}
				if counters {
					return a.showCounters(found.Counters, asJSON)
				}
				var flows []intercept.Flow
				if err := json.Unmarshal(found.Flows, &flows); err != nil {
					return errors.Join(errors.New("the agent's answer makes no sense"), err)
				}
				switch {
				case verify:
					return a.showReceipts(found.Receipts, flows, asJSON)
				case asJSON:
					return output.JSON(a.stdout, flows)
				}
				return a.printFlows(flows)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&counters, "counters", false, "what was counted since the agent began")
	cmd.Flags().BoolVar(&verify, "verify", false, "compare them with what gateways have counted")
	cmd.MarkFlagsMutuallyExclusive("counters", "verify")
	return cmd
}

func (a *app) printFlows(flows []intercept.Flow) error {
	versions := make(map[string]bool)
	for _, f := range flows {
		versions[f.RuleVersion] = true
	}
	columns := []output.Column{
		{Name: "AGE"}, {Name: "REQUEST", Min: 16}, {Name: "USER", Min: 6}, {Name: "DATA", Min: 6},
		{Name: "RULES", Min: 8}, {Name: "TUNNEL"}, {Name: "BYTES", Note: "sent / received", Right: true},
	}
	const afterRules = 5
	if len(versions) > 1 { // else one line says it
		columns = slices.Insert(columns, afterRules, output.Column{Name: "VERSION"})
	}
	table := output.NewTable(columns...)
	for _, f := range flows {
		tunnel := f.Tunnel
		if !f.Verified {
			tunnel += ", unverified"
		}
		row := []string{output.Age(time.Since(f.Started)), requestOf(f.Context), userOf(f.Context), f.Context.Data,
			strings.Join(f.Rules, ", "), tunnel, output.Bytes(f.Sent) + " / " + output.Bytes(f.Received)}
		if len(versions) > 1 {
			row = slices.Insert(row, afterRules, shortDigest(f.RuleVersion))
		}
		table.Row(row...)
	}
	page := output.NewPage(a.stdout)
	page.Table(table)
	if len(versions) == 1 && !versions[""] {
		page.Line(0, "All by version "+shortDigest(flows[0].RuleVersion)+" of the rules.")
	}
	return page.Err()
}

// requestOf is what a flow is for, in few words.
func requestOf(c flow.Context) string {
	host := cmp.Or(c.HostText(), c.Destination.String())
	switch c.Protocol {
	case flow.HTTP:
		return c.Method + " " + host + c.Path
	case flow.TLS:
		return "TLS " + host
	}
	return "TCP " + host
}

// userOf is who asks: "?" marks a claim, "!" what a token proves.
func userOf(c flow.Context) string {
	switch c.UserProof {
	case flow.Claimed:
		return c.User + "?"
	case flow.Verified:
		return c.User + "!"
	}
	return c.User
}
