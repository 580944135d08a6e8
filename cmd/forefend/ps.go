package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forefend.dev/forefend/cmd/forefend/output"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

func newPsCommand(a *app) *cobra.Command {
	var namespace string
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List running containers with what was predicted, used and is enforced",
		Long: "Lists the containers that run under Forefend. For memory, CPUs and processes it shows the peak\n" +
			"that was predicted, the peak so far, and the limit; \"~\" marks a soft limit, \"-\" is none. A mode\n" +
			"with \"!\" was decided by the shim while the daemon was away.",
		Example: "  forefend ps\n  forefend ps -n k8s.io --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON && quiet {
				return usage(cmd, errors.New("--json and --quiet exclude each other"))
			}
			return a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error {
				list, err := ask(ctx, daemon.List)
				if err != nil {
					return err
				}
				return a.printContainers(pick(list, namespace), asJSON, quiet)
			})
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only containers of this containerd namespace")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only NAMESPACE/ID")
	return cmd
}

// pick keeps the containers of a namespace (all when it is empty), ordered by id.
func pick(list api.ListResponse, namespace string) []api.Container {
	containers := slices.DeleteFunc(slices.Clone(list.Containers), func(c api.Container) bool {
		return namespace != "" && c.ID.Namespace != namespace
	})
	slices.SortFunc(containers, func(x, y api.Container) int {
		return cmp.Or(cmp.Compare(x.ID.Namespace, y.ID.Namespace), cmp.Compare(x.ID.Container, y.ID.Container))
	})
	return containers
}

func (a *app) printContainers(containers []api.Container, asJSON, quiet bool) error {
	if asJSON {
		if containers == nil {
			containers = []api.Container{}
		}
		return output.JSON(a.stdout, api.ListResponse{Containers: containers})
	}
	if quiet {
		for _, c := range containers {
			if _, err := fmt.Fprintln(a.stdout, c.ID); err != nil {
				return err
			}
		}
		return nil
	}
	t := output.NewTable(
		output.Column{Name: "ID", Min: 12}, output.Column{Name: "NAME", Min: 8},
		output.Column{Name: "MODE"}, output.Column{Name: "SEALED"}, output.Column{Name: "RISK"},
		output.Column{Name: "MEMORY", Note: "pred/used/limit"}, output.Column{Name: "CPUS", Note: "p/u/l"},
		output.Column{Name: "PIDS", Note: "p/u/l"}, output.Column{Name: "AGE", Right: true})
	for _, c := range containers {
		t.Row(shortID(c), c.Name, mode(c), yesNo(c.Sealed), risk(c), memory(c), cpus(c), pids(c), age(a.now(), c.Started))
	}
	return t.Write(a.stdout)
}

// shortID leaves out the default namespace and what nobody reads of a long id: a prefix stays unique in practice, and
// --json and -q have the whole.
func shortID(c api.Container) string {
	id := c.ID.Container
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		id = id[:12]
	}
	if c.ID.Namespace == defaultNamespace() {
		return id
	}
	return c.ID.Namespace + "/" + id
}

// mode marks a container whose policy is not the daemon's decision.
func mode(c api.Container) string {
	if c.By != "" && c.By != api.ByDaemon {
		return c.Mode + "!"
	}
	return c.Mode
}

func memory(c api.Container) string {
	limit := output.Bytes(c.Limits.Memory)
	if c.Limits.Memory <= 0 && c.Limits.MemorySoft > 0 {
		limit = "~" + output.Bytes(c.Limits.MemorySoft)
	}
	return triple(output.Bytes(int64(c.Prediction.Memory.Value)), output.Bytes(c.Usage.MemoryPeak), limit)
}

func cpus(c api.Container) string {
	return triple(output.CPUs(c.Prediction.CPU.Value), output.CPUs(c.Usage.CPUPeak), output.CPUs(c.Limits.CPUs))
}

func pids(c api.Container) string {
	return triple(output.Count(int64(c.Prediction.PIDs.Value)), output.Count(c.Usage.PIDsPeak), output.Count(c.Limits.PIDs))
}

func triple(predicted, used, limit string) string { return predicted + "/" + used + "/" + limit }

// risk is the level; "-": not known.
func risk(c api.Container) string {
	if c.Risk == nil {
		return "-"
	}
	return string(c.Risk.Level)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// age is how long ago a container was started; "-" while it is being created.
func age(now, started time.Time) string {
	if started.IsZero() {
		return "-"
	}
	return output.Age(now.Sub(started))
}
