package shim

import (
	"context"
	"io"
	"os"

	containerd "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"forefend.dev/forefend/shim/internal/bootstrap"
)

// Run is the shim's main: it starts, serves or deletes as its command line
// says, for daemons from containerd 1.6 on. in is what standard input has. It is called once, and may end the process.
func Run(ctx context.Context, cfg Config, in io.Reader) error {
	register(cfg)
	return bootstrap.Translate(os.Args[1:], in, func() { containerd.RunShim(ctx, NewManager(cfg)) })
}

// register puts the decorated task service where containerd's shim looks for one.
func register(cfg Config) {
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
			cfg.Containerd = ic.Properties[plugins.PropertyGRPCAddress]
			return NewService(ic.Context, cfg, publisher.(containerd.Publisher), sd.(shutdown.Service))
		},
	})
}
