package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/tunnel"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

const tunnelGroup = "tunneld" // see groupOf

// errTunnelsBusy says that another tunneld of the same config serves already.
var errTunnelsBusy = errors.New("another forefend tunneld of this configuration is running")

func newTunneldCommand(*app) *cobra.Command {
	var ready int
	c := &cobra.Command{
		Use:   "tunneld",
		Short: "Run the tunnels of this node (the daemon starts it where tunnels are configured)",
		Long: "Run the process that holds the node's tunnels: their keys, sockets and devices in containers' networks.\n" +
			"It outlives the daemon, which starts it where the configuration has a [[tunnel]]. When it ends, what goes\n" +
			"through tunnels stops, and goes nowhere else. The one that comes after it takes them up again.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.FromEnv()
			if err != nil {
				return err
			}
			return runTunneld(cmd.Context(), cfg, ready)
		},
	}
	c.Flags().IntVar(&ready, "ready-fd", 0, "write \"ready\" to this descriptor once serving")
	_ = c.Flags().MarkHidden("ready-fd") // it exists: registered the line above
	return c
}

// runTunneld serves the node's tunnels until ctx ends.
func runTunneld(ctx context.Context, cfg *config.Config, readyFD int) (err error) {
	say := readySayer(readyFD)
	defer func() {
		if err != nil {
			say(oneLine(err))
			if errors.Is(err, errTunnelsBusy) && readyFD > 2 {
				err = nil // the one who asked is told
			}
		}
	}()
	if err := setLogging(cfg); err != nil {
		return err
	}
	if len(cfg.Tunnels) == 0 {
		return fmt.Errorf("no tunnel is configured: write a [[tunnel]] into %s, see config.toml.example", cfg.Path)
	}
	lock, err := lockTunnels(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	protect(ctx, cfg)
	if !underManager() {
		defer func() { _ = cgroup.Leave(groupOf(cfg, tunnelGroup), os.Getpid()) }() // an empty group stays; the next one takes it
	}
	service, err := tunnel.Open(ctx, tunnel.NewPool(poolOf(ctx, cfg)), cfg.TunnelsDir())
	if err != nil {
		return err
	}
	listener, err := listen(cfg.TunnelsSocket())
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return errors.Join(fmt.Errorf("build the server: %w", err), listener.Close())
	}
	api.RegisterTunnels(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.WithoutCancel(ctx), listener) }()
	say("ready")
	log.G(ctx).WithField("socket", cfg.TunnelsSocket()).WithField("tunnels", len(cfg.Tunnels)).Info("forefend tunneld: serving")
	err = service.Run(ctx)
	return errors.Join(err, server.Close(), ignore(<-served, ttrpc.ErrServerClosed))
}

// ignore is err, unless it is the expected one.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// lockTunnels makes this the one tunneld of its configuration.
func lockTunnels(cfg *config.Config) (*os.File, error) {
	f, err := lockFile(cfg, cfg.TunnelsLock())
	if errors.Is(err, errBusy) {
		return nil, errTunnelsBusy
	}
	return f, err
}

// protect gives the process its own cgroup and keeps it from being killed for memory. What the kernel refuses is told.
func protect(ctx context.Context, cfg *config.Config) {
	tell := func(what string, err error) {
		if err != nil {
			log.G(ctx).WithError(err).Info("forefend tunneld: " + what)
		}
	}
	if !underManager() {
		tell("no cgroup of its own", cgroup.Join(groupOf(cfg, tunnelGroup), os.Getpid()))
	}
	tell("no protection from the OOM killer", os.WriteFile("/proc/self/oom_score_adj", fmt.Appendf(nil, "%d", daemonOOMScore), 0))
	tell("core dumps would hold keys", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// poolOf is the configuration as the pool has it. Of what is wrong with keys it tells: they are read when a tunnel is used.
func poolOf(ctx context.Context, cfg *config.Config) []tunnel.Tunnel {
	var all []tunnel.Tunnel
	for _, c := range cfg.Tunnels {
		t := tunnel.Tunnel{
			Name: c.Name, Kind: tunnel.Kind(c.Kind), Class: c.Class, Encryption: c.Encryption, Endpoints: c.Endpoints, SharedFile: c.SharedFile,
			Dedicated: c.Dedicated, MTU: c.MTU, Keepalive: c.Keepalive, DeadAfter: c.DeadAfter,
		}
		for _, s := range c.Slots {
			t.Slots = append(t.Slots, tunnel.Slot{KeyFile: s.KeyFile, Addresses: s.Addresses})
		}
		if t.Kind == tunnel.WireGuard {
			t.PublicKey, _ = wg.ParseKey(c.PublicKey) // the configuration was checked
			if err := t.Check(); err != nil {
				log.G(ctx).WithError(err).Warn("forefend tunneld: keys")
			}
		}
		all = append(all, t)
	}
	return all
}

// tunnelsEvery is how often the daemon looks whether tunneld serves.
const tunnelsEvery = 2 * time.Second

// keepTunnels starts tunneld where tunnels are configured and none serves, until ctx ends. Containers' traffic waits for it.
func (d *daemon) keepTunnels(ctx context.Context) {
	if len(d.cfg.Tunnels) == 0 {
		return
	}
	ticker := time.NewTicker(tunnelsEvery)
	defer ticker.Stop()
	for failed := false; ; {
		err := startTunneld(ctx, d.cfg)
		if err != nil && !failed && ctx.Err() == nil {
			log.G(ctx).WithError(err).Error("forefend daemon: no tunnels: what would go by them goes nowhere")
		}
		failed = err != nil
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// tunneldStart bounds the start of a tunneld, which takes up what an earlier one had.
const tunneldStart = 30 * time.Second

// startTunneld has a tunneld serve: the one that does, or a new one.
func startTunneld(ctx context.Context, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, tunneldStart)
	defer cancel()
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", cfg.TunnelsSocket()); err == nil {
		return c.Close()
	}
	pipe, err := spawn(cfg, cfg.TunnelsLog(), "tunneld", "--ready-fd", "3")
	if err != nil {
		return err
	}
	defer pipe.Close()
	switch said, err := hear(ctx, pipe); {
	case said == "ready" || said == errTunnelsBusy.Error():
		return nil
	case said != "":
		return errors.New(said)
	default:
		return fmt.Errorf("tunneld ended or hung before it served (%w); see %s", err, cfg.TunnelsLog())
	}
}
