package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/tunnel"
	"forefend.dev/forefend/netns/uplink"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/runtime/cgroup"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/stamps"
)

const tunnelGroup = "tunneld" // see groupOf

// errTunnelsBusy says that another tunneld of the same config serves already.
var errTunnelsBusy = errors.New("another forefend tunneld of this configuration is running")

// errNoTunnelsConfigured says that there is nothing to do for tunneld.
var errNoTunnelsConfigured = errors.New("no tunnel is configured")

func newTunneldCommand(a *app) *cobra.Command {
	var ready int
	var takeover, end, configured bool
	c := &cobra.Command{
		Use:   "tunneld",
		Short: "Run the tunnels of this node (the daemon starts it where tunnels are configured)",
		Long: "Run the process that holds the node's tunnels: their keys, sockets and devices in containers' networks.\n" +
			"It outlives the daemon, which starts it where the configuration has a [[tunnel]]. When it ends, what goes\n" +
			"through tunnels stops, and goes nowhere else. The one that comes after it takes them up again. As a systemd\n" +
			"service it is forefend-tunneld.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.FromEnv()
			if err != nil {
				return err
			}
			switch {
			case end:
				return a.stop(cmd.Context(), cfg.TunnelsLock(), "forefend tunneld")
			case configured && len(cfg.Tunnels) == 0:
				return errNoTunnelsConfigured
			case configured:
				return nil
			}
			return runTunneld(cmd.Context(), cfg, ready, takeover)
		},
	}
	c.Flags().BoolVar(&takeover, "takeover", false, "end the tunneld that runs, and take its place")
	c.Flags().BoolVar(&end, "stop", false, "end the tunneld that runs; the daemon starts another")
	c.Flags().BoolVar(&configured, "configured", false, "do nothing, and fail where no tunnel is configured")
	c.Flags().IntVar(&ready, "ready-fd", 0, "write \"ready\" to this descriptor once serving")
	_ = c.Flags().MarkHidden("ready-fd") // it exists: registered the line above
	c.MarkFlagsMutuallyExclusive("takeover", "stop", "configured")
	return c
}

// runTunneld serves the node's tunnels until ctx ends.
func runTunneld(ctx context.Context, cfg *config.Config, readyFD int, takeover bool) (err error) {
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
		return fmt.Errorf("%w: write a [[tunnel]] into %s, see config.toml.example", errNoTunnelsConfigured, cfg.Path)
	}
	lock, err := lockTunnels(ctx, cfg, takeover)
	if err != nil {
		return err
	}
	defer lock.Close()
	protect(ctx, cfg)
	if !underManager() {
		defer func() { _ = cgroup.Leave(groupOf(cfg, tunnelGroup), os.Getpid()) }() // an empty group stays; the next one takes it
	}
	service, err := tunnel.Open(ctx, tunnel.NewPool(poolOf(ctx, cfg)), cfg.TunnelsDir(), cfg.DrainsFile(), admitOpenVPN(ctx, cfg))
	if err != nil {
		return err
	}
	ways, err := keepUplinks(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ways.Close(ctx)) }()
	listener, err := listen(cfg.TunnelsSocket())
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return errors.Join(fmt.Errorf("build the server: %w", err), listener.Close())
	}
	api.RegisterTunnels(server, service)
	api.RegisterUplinks(server, ways)
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.WithoutCancel(ctx), listener) }()
	say("ready")
	tellManager(ctx, systemd.SdNotifyReady)
	log.G(ctx).WithField("socket", cfg.TunnelsSocket()).WithField("tunnels", len(cfg.Tunnels)).Info("forefend tunneld: serving")
	var followed sync.WaitGroup
	followed.Go(func() { followTunnels(ctx, cfg.Path, service, ways) })
	followed.Go(func() { ways.Run(ctx) })
	err = service.Run(ctx)
	tellManager(ctx, systemd.SdNotifyStopping)
	followed.Wait()
	return errors.Join(err, server.Close(), ignore(<-served, ttrpc.ErrServerClosed))
}

// followEvery is how often tunneld looks at its configuration.
const followEvery = time.Second

// followTunnels has tunnels and uplinks be those of a configuration that has changed, until ctx ends. One that is not in order
// changes nothing, and neither does one that is being written: it has to stay as it is from one look to the next.
func followTunnels(ctx context.Context, path string, service *tunnel.Service, ways *uplink.Keeper) {
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for file := stamps.Follow(path); ; { // it may have changed since it was read
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if !file.Settled() {
			continue
		}
		cfg, err := config.Load(path)
		if !file.Still() {
			continue
		}
		if err == nil {
			err = errors.Join(service.Reload(ctx, poolOf(ctx, cfg)), ways.Set(ctx, uplinksOf(cfg)))
		}
		if err != nil {
			log.G(ctx).WithError(err).Error("forefend tunneld: the configuration has changed and is not in order: tunnels are as they were")
		}
	}
}

// ignore is err, unless it is the expected one.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// lockTunnels makes this the one tunneld of its configuration.
func lockTunnels(ctx context.Context, cfg *config.Config, takeover bool) (*os.File, error) {
	if takeover {
		return takeOver(ctx, cfg, cfg.TunnelsLock())
	}
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

// admitOpenVPN puts openvpns into a cgroup of their own.
func admitOpenVPN(ctx context.Context, cfg *config.Config) func(pid int) error {
	if underManager() {
		return func(int) error { return nil }
	}
	group := groupOf(cfg, "openvpn")
	return func(pid int) error {
		if err := cgroup.Join(group, pid); err != nil { // they run all the same
			log.G(ctx).WithError(err).Info("forefend tunneld: no cgroup for openvpn")
		}
		return nil
	}
}

// poolOf is the configuration as the pool has it. Of what is wrong with keys it tells: they are read when a tunnel is used.
func poolOf(ctx context.Context, cfg *config.Config) []tunnel.Tunnel {
	var all []tunnel.Tunnel
	for _, c := range cfg.Tunnels {
		t := tunnel.Tunnel{
			Name: c.Name, Kind: tunnel.Kind(c.Kind), Class: c.Class, Encryption: c.Encryption, Endpoints: c.Endpoints, SharedFile: c.SharedFile,
			Dedicated: c.Dedicated, MTU: c.MTU, Rate: c.Rate, Keepalive: c.Keepalive, DeadAfter: c.DeadAfter,
			OpenVPN: tunnel.OpenVPNSettings{CAFile: c.CAFile, TLSCryptFile: c.TLSCryptFile, Fingerprints: c.Fingerprints, PeerName: c.PeerName, Ready: c.Ready},
		}
		g := c.Gateway
		t.Gateway = tunnel.Gateway{Address: g.Address, CA: g.CA, Cert: g.Cert, Key: g.Key, Class: g.Class, Ready: g.Ready, Rekey: g.Rekey, ReceiptKey: g.ReceiptKey}
		for _, s := range c.Slots {
			t.Slots = append(t.Slots, tunnel.Slot{KeyFile: s.KeyFile, CertFile: s.CertFile, Addresses: s.Addresses})
		}
		if t.Kind == tunnel.WireGuard {
			t.PublicKey, _ = wg.ParseKey(c.PublicKey) // the configuration was checked
		}
		if err := t.Check(); err != nil {
			log.G(ctx).WithError(err).Warn("forefend tunneld: keys")
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
		err := awaitTunneld(ctx, d.cfg)
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

// errNoTunneldService says what is to be done where the daemon must not start tunneld itself.
var errNoTunneldService = errors.New("forefend tunneld does not run, and a daemon that is a service does not start it: systemctl enable --now forefend-tunneld")

// awaitTunneld has a tunneld serve. A daemon that is a service may lack what tunneld needs, which is a service of its own then.
func awaitTunneld(ctx context.Context, cfg *config.Config) error {
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", cfg.TunnelsSocket()); err == nil {
		return c.Close()
	}
	if underManager() {
		return errNoTunneldService
	}
	return startTunneld(ctx, cfg)
}

// startTunneld starts a tunneld, and returns once it serves or another one does.
func startTunneld(ctx context.Context, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, tunneldStart)
	defer cancel()
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
