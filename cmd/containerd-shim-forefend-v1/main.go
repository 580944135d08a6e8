// Command containerd-shim-forefend-v1 is the containerd shim of the runtime
// io.containerd.forefend.v1. containerd starts it; FOREFEND_CONFIG in
// containerd's environment names another config file than the default one.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	containerd "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"forefend.dev/forefend/shim"
)

func main() {
	cfg, err := configure()
	if err != nil && !slices.Contains(os.Args[1:], "delete") { // cleaning up must work without a valid config
		fmt.Fprintf(os.Stderr, "%s: %v\n", shim.Name, err)
		os.Exit(1)
	}
	register(cfg)
	containerd.RunShim(context.Background(), shim.NewManager(cfg))
}

// register puts Forefend's task service where containerd's shim looks for one.
func register(cfg shim.Config) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return shim.NewService(ic.Context, cfg, publisher.(containerd.Publisher), sd.(shutdown.Service))
		},
	})
}
