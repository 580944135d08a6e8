package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/log"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/forefend/meter"
	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/gateway"
	"forefend.dev/forefend/netns/tunnel"
	"forefend.dev/forefend/runtime/credentials"
	"forefend.dev/forefend/runtime/stamps"
)

func newGatewayCommand(a *app) *cobra.Command {
	var check, asJSON bool
	c := &cobra.Command{
		Use:   "gateway",
		Short: "Be the far end of other nodes' tunnels",
		Long: "Runs a gateway: nodes that show a certificate of the list of clients get peers of its WireGuard device for\n" +
			"a while, and what they send leaves by its uplink. It is for a machine of its own, needs no containerd, and\n" +
			"reads no config.toml: its file is --config, else " + config.DefaultGatewayPath + " (docs/gateway.md).",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := cmp.Or(a.configPath, config.DefaultGatewayPath)
			cfg, err := config.LoadGateway(path)
			if problems := (config.Problems{}); check && (err == nil || errors.As(err, &problems)) {
				return a.showProblems(path, problems, asJSON)
			}
			if err != nil {
				return err
			}
			return runGateway(cmd.Context(), cfg)
		},
	}
	c.Flags().BoolVar(&check, "check", false, "only check the file: every problem with its line and how to mend it")
	c.Flags().BoolVar(&asJSON, "json", false, "with --check, print JSON")
	return c
}

// runGateway serves nodes until ctx ends.
func runGateway(ctx context.Context, cfg *config.Gateway) (err error) {
	if err := setLogging(&config.Config{LogFormat: cfg.LogFormat, LogLevel: cfg.LogLevel}); err != nil {
		return err
	}
	lock, err := lockGateway(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		log.G(ctx).WithError(err).Info("forefend gateway: core dumps would hold keys")
	}
	who := &credentials.Files{CA: cfg.CA, Cert: cfg.Cert, Key: cfg.Key}
	if err := who.Check(); err != nil {
		return err
	}
	settings, err := prepareGateway(cfg)
	if err != nil {
		return err
	}
	home, err := enter.Process(os.Getpid())
	if err != nil {
		return err
	}
	defer home.Close()
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for nodes: %w", err)
	}
	g, err := gateway.Open(ctx, home, settings)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	log.G(ctx).WithField("listen", cfg.Listen).WithField("engine", g.Kind()).WithField("clients", len(cfg.Clients)).WithField("receipt_key", g.ReceiptKey()).
		Info("forefend gateway: serving")
	door := gateway.NewDoor(g, who.Load)
	scrapes := listenGatewayMetrics(ctx, cfg)
	tellManager(ctx, systemd.SdNotifyReady)
	return serveGateway(ctx, cfg, g, door, listener, scrapes)
}

// listenGatewayMetrics opens the place where figures are served, nil where that is nowhere. Without it a gateway works all the same.
func listenGatewayMetrics(ctx context.Context, cfg *config.Gateway) net.Listener {
	network, address := cfg.MetricsAddress()
	if network == "" {
		return nil
	}
	l, err := meter.Listen(network, address)
	if err != nil {
		log.G(ctx).WithError(err).Warn("forefend gateway: no metrics")
		return nil
	}
	return l
}

// serveGateway runs a gateway's parts until one of them or ctx ends.
func serveGateway(ctx context.Context, cfg *config.Gateway, g *gateway.Gateway, door *gateway.Door, l, scrapes net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { g.Run(ctx) })
	all.Go(func() { followClients(ctx, cfg, g) })
	if scrapes != nil {
		figures := meter.NewGateway(version, func() meter.GatewayStanding { return meter.GatewayStanding{Figures: g.Figures(), Door: door.Figures()} })
		all.Go(func() {
			if err := figures.Serve(ctx, scrapes); err != nil {
				log.G(ctx).WithError(err).Warn("forefend gateway: metrics have ended")
			}
		})
	}
	err := door.Serve(ctx, l)
	tellManager(ctx, systemd.SdNotifyStopping)
	return err
}

// lockGateway makes this the one gateway of its state.
func lockGateway(cfg *config.Gateway) (*os.File, error) {
	f, err := lockFile(&config.Config{Root: cfg.State, State: cfg.State}, filepath.Join(cfg.State, "lock"))
	if errors.Is(err, errBusy) {
		return nil, fmt.Errorf("another forefend gateway has %s", cfg.State)
	}
	return f, err
}

// prepareGateway reads the key of WireGuard, and finds the uplink.
func prepareGateway(cfg *config.Gateway) (s gateway.Config, err error) {
	s = gateway.Config{
		Port: uint16(cfg.Port), Endpoints: cfg.Endpoints, Pool4: cfg.Pool4, Pool6: cfg.Pool6, Uplink: cfg.Uplink, MTU: cfg.MTU, Term: cfg.Term,
		Leases: cfg.Leases, State: cfg.State, Clients: clientsOf(cfg),
	}
	for _, c := range cfg.Classes {
		s.Classes = append(s.Classes, gateway.Class{Name: c.Name, Rate: c.Rate})
	}
	if s.Private, err = tunnel.ReadKey(cfg.KeyFile); err != nil {
		return s, err
	}
	if s.Uplink == "" {
		if s.Uplink, err = defaultDevice(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// defaultDevice is the one that most of the world is behind.
func defaultDevice() (string, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("find the uplink: %w", err)
	}
	for _, r := range routes {
		if ones, _ := maskOf(r.Dst); ones != 0 || r.LinkIndex == 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().Name, nil
		}
	}
	return "", errors.New(`there is no default route: write uplink = "DEVICE" into the gateway's file`)
}

func maskOf(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}

func clientsOf(cfg *config.Gateway) (all []gateway.Client) {
	for _, c := range cfg.Clients {
		all = append(all, gateway.Client{Name: c.Name, Leases: c.Leases, Classes: c.Classes})
	}
	return all
}

// followClients takes the list of clients of a file that changed, looking at it once a second, until ctx ends.
func followClients(ctx context.Context, cfg *config.Gateway, g *gateway.Gateway) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	f := clientsFile{file: stamps.Follow(cfg.Path), path: cfg.Path, set: g.SetClients}
	for {
		select {
		case <-tick.C:
			f.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// clientsFile is a gateway's file, for its list of clients.
type clientsFile struct {
	file *stamps.File
	path string
	set  func(context.Context, []gateway.Client) error
	read bool // it was, once
}

// look takes the list if the file has changed. One that is not in order leaves the list as it is, and so does one that is being written: whoever
// a part of it lacks would lose leases.
func (f *clientsFile) look(ctx context.Context) {
	if !f.file.Settled() {
		return
	}
	next, err := config.LoadGateway(f.path)
	if !f.file.Still() {
		return
	}
	if err == nil {
		err = f.set(ctx, clientsOf(next))
	}
	if err != nil {
		log.G(ctx).WithError(err).Error("forefend gateway: its file is not in order, the list of clients stays as it was")
		return
	}
	if f.read {
		log.G(ctx).WithField("clients", len(next.Clients)).Info("forefend gateway: the list of clients was read again; other changes are in force with its next start")
	}
	f.read = true // the first time it was read, but for what changed meanwhile, before the gateway began
}
