package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func newTunnelCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tunnel",
		Short: "The node's tunnels: who uses them, and whether they work",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTunnelListCommand(a), newTunnelShowCommand(a), newTunnelTestCommand(a), newTunnelDrainCommand(a))
	return cmd
}

// errNoTunnels is returned when nobody listens on tunneld's socket.
var errNoTunnels = errors.New("forefend tunneld does not run; the daemon starts it where a [[tunnel]] is configured")

// withTunnels calls do with a connection to tunneld.
func (a *app) withTunnels(ctx context.Context, do func(context.Context, *api.TunnelsClient) error) error {
	c, err := a.config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout) // a test waits for a gateway
	defer cancel()
	client, err := api.DialTunnels(ctx, c.TunnelsSocket())
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w\n(nobody listens on %s)", errNoTunnels, c.TunnelsSocket())
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w\nThe socket is for root only: run forefend as root", err)
	case err != nil:
		return err
	}
	defer client.Close()
	return do(ctx, client)
}

// tunnelList is what `forefend tunnel ls --json` prints.
type tunnelList struct {
	api.TunnelsResponse
	Uplinks []api.Uplink `json:"uplinks,omitempty"`
}

func newTunnelListCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tunnels, their health and slots, and what classes of uplinks send",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withTunnels(cmd.Context(), func(ctx context.Context, tunnels *api.TunnelsClient) error {
				list, err := tunnels.Tunnels(ctx)
				if err != nil {
					return err
				}
				uplinks, err := listUplinks(ctx, tunnels)
				if err != nil {
					return err
				}
				if asJSON {
					return output.JSON(a.stdout, tunnelList{list, uplinks})
				}
				t := output.NewTable(output.Column{Name: "NAME", Min: 8}, output.Column{Name: "KIND"}, output.Column{Name: "CLASS"},
					output.Column{Name: "ENCRYPTION"}, output.Column{Name: "HEALTH"}, output.Column{Name: "SLOTS", Note: "used/all"}, output.Column{Name: "ENDPOINT", Min: 8})
				for _, one := range list.Tunnels {
					t.Row(one.Name, one.Kind, dash(one.Class), one.Encryption.String(), health(one), taken(one), dash(cmp.Or(one.Gateway, strings.Join(one.Endpoints, " "))))
				}
				if err := errors.Join(t.Write(a.stdout), a.printUplinks(uplinks)); err != nil || list.Ahead == (api.Ahead{}) {
					return err
				}
				_, err = fmt.Fprintf(a.stdout, "\nAttached before they were asked for: %d, of which %d were; on first use: %d\n", list.Ahead.Attached, list.Ahead.Used, list.Ahead.First)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func health(t api.Tunnel) string {
	if t.Draining {
		return t.Health + ", drained"
	}
	return t.Health
}

func taken(t api.Tunnel) string {
	if t.Slots == 0 {
		return fmt.Sprintf("%d/-", len(t.Uses))
	}
	return fmt.Sprintf("%d/%d", len(t.Uses), t.Slots)
}

func newTunnelShowCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show TUNNEL",
		Short: "Show a tunnel and the containers that use it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withTunnels(cmd.Context(), func(ctx context.Context, tunnels *api.TunnelsClient) error {
				list, err := tunnels.Tunnels(ctx)
				if err != nil {
					return err
				}
				i := slices.IndexFunc(list.Tunnels, func(t api.Tunnel) bool { return t.Name == args[0] })
				if i < 0 {
					return fmt.Errorf("no tunnel is called %q, forefend tunnel ls lists them: %w", args[0], errdefs.ErrNotFound)
				}
				if asJSON {
					return output.JSON(a.stdout, list.Tunnels[i])
				}
				return a.printTunnel(list.Tunnels[i], list.Guarded)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (a *app) printTunnel(t api.Tunnel, guarded []api.Guarded) error {
	page := output.NewPage(a.stdout)
	fact := func(lead, text string) {
		if text != "" {
			page.Item(0, lead, factAt, text)
		}
	}
	fact("Tunnel", t.Name+", "+t.Kind)
	fact("Class", t.Class)
	fact("Encryption", t.Encryption.String())
	fact("Endpoint", strings.Join(t.Endpoints, ", "))
	if t.Gateway != "" {
		fact("Gateway", fmt.Sprintf("%s, %s ready", t.Gateway, plural(t.Ready, "peer")))
		fact("Trouble", t.Trouble)
	}
	state := health(t)
	if t.Reason != "" {
		state += ": " + t.Reason
	}
	fact("Health", state)
	fact("Slots", taken(t))
	if t.Dedicated > 0 {
		fact("Dedicated", fmt.Sprintf("%d slots are kept for one workload and user each", t.Dedicated))
	}
	if t.MTU > 0 {
		fact("MTU", fmt.Sprint(t.MTU))
	}
	if len(t.Uses) == 0 {
		return page.Err()
	}
	page.Heading("Used by")
	table := output.NewTable(output.Column{Name: "CONTAINER", Min: 12}, output.Column{Name: "FOR", Min: 8}, output.Column{Name: "DEVICE"},
		output.Column{Name: "ENGINE"}, output.Column{Name: "TCP", Right: true}, output.Column{Name: "HANDSHAKE", Right: true}, output.Column{Name: "SENT", Right: true}, output.Column{Name: "RECEIVED", Right: true}, output.Column{Name: "ATTACHED"})
	for _, u := range t.Uses {
		whom := "everybody"
		if u.Workload != "" || u.User != "" {
			whom = strings.Trim(u.Workload+"/"+u.User, "/")
		}
		handshake := "-"
		if !u.Handshake.IsZero() {
			handshake = output.Age(a.now().Sub(u.Handshake))
		}
		connections := "-"
		if u.Device != "" {
			connections = fmt.Sprint(u.Connections)
		}
		attached := "on first use"
		switch {
		case u.Ahead && u.Asked == 0:
			attached = "ahead, not asked for yet"
		case u.Ahead:
			attached = "ahead"
		}
		table.Row(u.Container, whom, dash(u.Device), dash(u.Engine), connections, handshake, output.Bytes(int64(u.Sent)), output.Bytes(int64(u.Received)), attached)
	}
	page.Table(table)
	for _, g := range guarded {
		if uses := slices.ContainsFunc(t.Uses, func(u api.TunnelUse) bool { return u.Namespace == g.Namespace }); uses && len(g.Dropped) > 0 {
			var causes []string
			for _, cause := range slices.Sorted(maps.Keys(g.Dropped)) {
				causes = append(causes, fmt.Sprintf("%s %d", strings.ReplaceAll(cause, "_", " "), g.Dropped[cause]))
			}
			page.Item(0, "Dropped", factAt, fmt.Sprintf("of %s: %s packets", g.Container, strings.Join(causes, ", ")))
		}
	}
	return page.Err()
}

func newTunnelTestCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test TUNNEL",
		Short: "Open a tunnel and wait for its gateway's answer",
		Long: "Opens a tunnel in a network namespace of its own, with a free slot's key, and waits for the gateway's\n" +
			"answer. No container is touched.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withTunnels(cmd.Context(), func(ctx context.Context, tunnels *api.TunnelsClient) error {
				r, err := tunnels.Try(ctx, api.TryRequest{Tunnel: args[0]})
				if err != nil {
					return err
				}
				if asJSON {
					return output.JSON(a.stdout, r)
				}
				_, err = fmt.Fprintf(a.stdout, "%s answered within %s at %s\n", args[0], output.Took(r.Handshake), r.Endpoint)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newTunnelDrainCommand(a *app) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain TUNNEL",
		Short: "Lead nobody by a tunnel any more",
		Long: "Leads no container by a tunnel any more, also those that use it, until --undo. Once this has returned, what they\n" +
			"begin takes another one that does what their rules ask, the next request of a connection that is kept as well;\n" +
			"where there is none, new connections are refused. Agents that cannot be told are waited for, ten seconds at\n" +
			"most: then what they know is no good any more. What is under way goes on, and a container's device goes away 20\n" +
			"seconds after it was last asked for, when no TCP connection is left by it but those by which nothing has passed\n" +
			"for five minutes: forefend tunnel show counts them. What must end sooner is cut by taking the tunnel out of the\n" +
			"configuration, which also forgets that it was drained.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withTunnels(cmd.Context(), func(ctx context.Context, tunnels *api.TunnelsClient) error {
				return tunnels.Drain(ctx, api.DrainRequest{Tunnel: args[0], Undo: undo})
			})
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let containers have it again, which stay with what they took meanwhile")
	return cmd
}
