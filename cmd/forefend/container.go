package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
)

// defaultNamespace is the containerd namespace of a container named without one: the same that ctr would use.
func defaultNamespace() string {
	if ns := os.Getenv("CONTAINERD_NAMESPACE"); ns != "" {
		return ns
	}
	return "default"
}

// findContainer turns ID or NAMESPACE/ID into the id of a container. One without a namespace that does not run in the
// default one is looked for in all others; when it runs in none, it is taken for one of the default namespace that is gone.
func findContainer(ctx context.Context, daemon api.Orchestrator, name string) (workload.ID, error) {
	id, err := workload.ParseID(name, defaultNamespace())
	if err != nil {
		return id, fmt.Errorf("container %q: %w", name, err)
	}
	if strings.Contains(name, "/") {
		return id, nil
	}
	list, err := ask(ctx, daemon.List)
	if err != nil {
		return id, err
	}
	var found []string
	for _, c := range list.Containers {
		if c.ID == id {
			return id, nil
		}
		if c.ID.Container == id.Container {
			found = append(found, c.ID.String())
		}
	}
	switch len(found) {
	case 0:
		return id, nil
	case 1:
		return workload.ParseID(found[0], "")
	}
	slices.Sort(found)
	return id, fmt.Errorf("several containers are called %s: say which of %s: %w", name, strings.Join(found, ", "), errdefs.ErrNotFound)
}

// completeContainers offers the running containers to the shell.
func (a *app) completeContainers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	err := a.withDaemon(cmd.Context(), func(ctx context.Context, daemon api.Orchestrator) error {
		list, err := ask(ctx, daemon.List)
		for _, c := range list.Containers {
			if c.ID.Namespace == defaultNamespace() {
				names = append(names, c.ID.Container)
			} else {
				names = append(names, c.ID.String())
			}
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
