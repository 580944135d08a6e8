package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

type tunnelsAPI = api.Tunnels // an embedded field's name must not be a method's

// fakeTunnels answers like a tunneld that has been used a little.
type fakeTunnels struct{ tunnelsAPI }

// serveTunnels serves it in a state directory, until the test ends.
func serveTunnels(t testing.TB, state string) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(state, "tunneld.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	api.RegisterTunnels(server, fakeTunnels{})
	api.RegisterUplinks(server, fakeTunnels{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(context.Background(), listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

func (fakeTunnels) Tunnels(context.Context) (api.TunnelsResponse, error) {
	return api.TunnelsResponse{
		Tunnels: []api.Tunnel{
			{Name: "uplink", Kind: "direct", Health: "unknown", Uses: []api.TunnelUse{{Container: "default/web-1", Namespace: 7, Mark: 1}}},
			{Name: "eu-1", Kind: "wireguard", Class: "eu", Encryption: flow.Strong, Endpoints: []string{"192.0.2.1:51820"}, MTU: 1420, Health: "up",
				Slots: 2, Dedicated: 1, Uses: []api.TunnelUse{{
					Container: "default/web-1", Namespace: 7, Workload: "web", User: "alice", Slot: 1, Device: "ff0", Engine: "user",
					Handshake: clock.Add(-40 * time.Second), Received: 5 << 20, Sent: 1 << 10, Connections: 3,
				}}},
			{Name: "eu-2", Kind: "wireguard", Class: "eu", Encryption: flow.Standard, Endpoints: []string{"192.0.2.2:51820", "gw.example.com:51820"}, MTU: 1420,
				Health: "down", Reason: "nothing has come back for 15s", Draining: true, Slots: 3},
		},
		Guarded: []api.Guarded{{Container: "default/web-1", Namespace: 7, Dropped: map[string]uint64{"forged": 3, "wrong_device": 1}}},
	}, nil
}

// Uplinks implements api.Uplinks: one uplink is in order, one is somebody else's.
func (fakeTunnels) Uplinks(context.Context) (api.UplinksResponse, error) {
	return api.UplinksResponse{Uplinks: []api.Uplink{
		{Device: "eth0", Rate: 950_000_000 / 8, Status: api.UplinkKept, Queue: "fq_codel", Classes: []api.UplinkClass{
			{Class: flow.QoSRealtime, Sent: 2 << 20, Packets: 9000}, {Class: flow.QoSInteractive, Sent: 300 << 20, Packets: 400_000},
			{Class: flow.QoSStandard, Sent: 4 << 30, Packets: 3_000_000}, {Class: flow.QoSBulk, Sent: 7 << 30, Packets: 5_000_000, Dropped: 1200, Waiting: 150 << 10},
		}},
		{Device: "eth1", Rate: 10_000_000_000 / 8, Status: api.UplinkForeign, Why: "eth1: somebody else's queueing discipline (tbf 8001:)"},
	}}, nil
}

func (fakeTunnels) Drain(_ context.Context, r api.DrainRequest) error {
	if r.Tunnel != "eu-2" {
		return fmt.Errorf("no tunnel is called %q, forefend tunnel ls lists them: %w", r.Tunnel, errdefs.ErrNotFound)
	}
	return nil
}

func (fakeTunnels) WayChanges(context.Context, api.WayChangesRequest) (api.WayChangesResponse, error) {
	return api.WayChangesResponse{}, errdefs.ErrNotImplemented
}

func (fakeTunnels) Try(_ context.Context, r api.TryRequest) (api.TryResponse, error) {
	if r.Tunnel != "eu-1" {
		return api.TryResponse{}, fmt.Errorf("tunnel %s: endpoint 192.0.2.2:51820: the gateway does not answer, or does not know this key: %w", r.Tunnel, errdefs.ErrUnavailable)
	}
	return api.TryResponse{Endpoint: "192.0.2.1:51820", Handshake: 4 * time.Millisecond, Engine: "user"}, nil
}
