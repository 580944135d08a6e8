package api

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"

	"forefend.dev/forefend/netns/flow"
)

// TunnelsName is the ttrpc service of `forefend tunneld`.
const TunnelsName = "forefend.tunneld.v1.Tunnels"

// Tunnels are a node's tunnels: the process that holds their keys, and devices in the containers' network namespaces. Errors are
// errdefs kinds.
type Tunnels interface {
	// Guard closes a network namespace before its first process runs: nothing leaves then but by its interceptor. It may be repeated,
	// with another interceptor for instance.
	Guard(context.Context, GuardRequest) (GuardResponse, error)
	// Attach finds a tunnel for a profile, and has it in the namespace when it returns. It may be repeated, and should be as
	// often as its answer says: a tunnel that nobody asks for is taken away.
	Attach(context.Context, AttachRequest) (Attached, error)
	// Reconcile holds what a namespace's interceptor has counted against the receipts of its tunnels' gateways, and ends the connections
	// with which something is wrong.
	Reconcile(context.Context, ReconcileRequest) (Reconciled, error)
	// Release gives up what Guard and Attach made for a namespace, whose container has ended. It stays closed.
	Release(context.Context, ReleaseRequest) error
	// Tunnels lists the tunnels and who uses them.
	Tunnels(context.Context) (TunnelsResponse, error)
	// Drain has nobody be led by a tunnel any more, also who has it, or again, until that is taken back. When it returns, interceptors begin
	// nothing by it any more; connections by it go on until they end.
	Drain(context.Context, DrainRequest) error
	// WayChanges is answered when the last change of where Attach leads a namespace is not After, or after Wait: a tunnel is drained or given
	// back, or one that it uses is found down. Who asks after the last one says that the namespace's interceptor goes by no answer of Attach
	// any more that was given before it.
	WayChanges(context.Context, WayChangesRequest) (WayChangesResponse, error)
	// Try opens a tunnel in a namespace of its own and waits for the gateway's answer.
	Try(context.Context, TryRequest) (TryResponse, error)
}

// GuardRequest is a network namespace and its interceptor.
type GuardRequest struct {
	Container string `json:"container"`
	PID       int    `json:"pid"`       // a process whose end is the namespace's
	PIDStart  uint64 `json:"pid_start"` // when that started, in ticks since boot: it must not be another by now

	Cgroup      uint64 `json:"cgroup"`       // the interceptor's in the v2 hierarchy: its inode number
	CgroupLevel uint32 `json:"cgroup_level"` // and how many levels it is below the root
	Port        uint16 `json:"port"`         // where it listens, on loopback
	Web         bool   `json:"web"`          // requests must be readable: UDP to port 443 is refused
}

// GuardResponse names the namespace for the calls to come.
type GuardResponse struct {
	Namespace uint64 `json:"namespace"` // its inode number
}

// AttachRequest asks for a tunnel.
type AttachRequest struct {
	Namespace uint64       `json:"namespace"`
	Profile   flow.Profile `json:"profile"`
	Workload  string       `json:"workload,omitempty"` // with User, whose a dedicated tunnel is
	User      string       `json:"user,omitempty"`
	Ahead     bool         `json:"ahead,omitempty"` // nobody waits for it yet: it is likely to be asked for
}

// Attached is a tunnel in a namespace.
type Attached struct {
	Tunnel     string          `json:"tunnel"`
	Encryption flow.Encryption `json:"encryption"`
	Mark       uint32          `json:"mark"`               // what leads a socket of the interceptor there
	Device     string          `json:"device,omitempty"`   // "" for the container's own uplink
	Valid      time.Duration   `json:"valid"`              // ask again after that
	Receipts   bool            `json:"receipts,omitempty"` // its gateway counts connections, too
}

// ReconcileRequest is what an interceptor has counted. With More, the rest is to follow, and nothing is compared yet.
type ReconcileRequest struct {
	Namespace uint64        `json:"namespace"`
	Accounts  flow.Accounts `json:"accounts"`
	All       bool          `json:"all,omitempty"` // verdicts about all connections are wanted
}

// Reconciled is what came of it.
type Reconciled struct {
	Owed     bool           `json:"owed"`               // a tunnel of the namespace has, or had, a gateway that gives receipts
	Faults   []flow.Verdict `json:"faults,omitempty"`   // that were not told before, the rest of many with the next answer
	Verdicts []flow.Verdict `json:"verdicts,omitempty"` // where all are wanted
	Unlisted int            `json:"unlisted,omitempty"` // verdicts that are not in the list, which is long enough
	Left     uint64         `json:"left,omitempty"`     // connections that nothing is known of: too many
	Trouble  []string       `json:"trouble,omitempty"`  // gateways that could not be asked, and why
	Without  []string       `json:"without,omitempty"`  // tunnels of the namespace whose far end gives no receipts
}

// ReleaseRequest names a namespace.
type ReleaseRequest struct {
	Namespace uint64 `json:"namespace"`
}

// Tunnel is how it stands with one.
type Tunnel struct {
	Name       string          `json:"name"`
	Kind       string          `json:"kind"`
	Class      string          `json:"class,omitempty"`
	Encryption flow.Encryption `json:"encryption"`
	Endpoints  []string        `json:"endpoints,omitempty"`
	Gateway    string          `json:"gateway,omitempty"` // that gives peers out, where they are not configured
	Ready      int             `json:"ready,omitempty"`   // peers of it that wait to be used
	Trouble    string          `json:"trouble,omitempty"` // what is wrong with asking it
	MTU        int             `json:"mtu,omitempty"`
	Health     string          `json:"health"`
	Reason     string          `json:"reason,omitempty"`
	Draining   bool            `json:"draining,omitempty"`
	Slots      int             `json:"slots"`     // 0: no limit
	Dedicated  int             `json:"dedicated"` // how many of them are kept for dedicated leases
	Uses       []TunnelUse     `json:"uses,omitempty"`
}

// TunnelUse is a tunnel in one namespace.
type TunnelUse struct {
	Container   string    `json:"container"`
	Namespace   uint64    `json:"namespace"`
	Workload    string    `json:"workload,omitempty"` // of a dedicated one
	User        string    `json:"user,omitempty"`
	Slot        int       `json:"slot"`
	Device      string    `json:"device,omitempty"`
	Mark        uint32    `json:"mark"`
	Engine      string    `json:"engine,omitempty"` // whose WireGuard: "kernel" or "user"
	Handshake   time.Time `json:"handshake,omitzero"`
	Received    uint64    `json:"received"` // bytes
	Sent        uint64    `json:"sent"`
	Connections int       `json:"connections"`     // of TCP that go by the device now
	Ahead       bool      `json:"ahead,omitempty"` // it was attached before it was asked for
	Asked       uint64    `json:"asked"`           // how often it was asked for since
}

// Guarded is a namespace, and what was dropped in it by cause.
type Guarded struct {
	Container string            `json:"container"`
	Namespace uint64            `json:"namespace"`
	Dropped   map[string]uint64 `json:"dropped,omitempty"` // packets
}

// TunnelsResponse is the list.
type TunnelsResponse struct {
	Tunnels []Tunnel  `json:"tunnels"`
	Guarded []Guarded `json:"guarded"`
	Ahead   Ahead     `json:"ahead"`
}

// Ahead counts tunnels attached to namespaces since tunneld began, the containers' own uplinks left out: Attached before they were
// asked for, Used those of them that were asked for then, First those attached when they were asked for.
type Ahead struct {
	Attached uint64 `json:"attached"`
	Used     uint64 `json:"used"`
	First    uint64 `json:"first"`
}

// DrainRequest names a tunnel.
type DrainRequest struct {
	Tunnel string `json:"tunnel"`
	Undo   bool   `json:"undo,omitempty"`
}

// WayChangesRequest waits for a change after the one that the last answer told of.
type WayChangesRequest struct {
	Namespace uint64        `json:"namespace"`
	After     uint64        `json:"after,omitempty"`
	Wait      time.Duration `json:"wait"`
}

// WayChangesResponse numbers the last change. Numbers only grow, also from one tunneld to the next.
type WayChangesResponse struct {
	Last uint64 `json:"last"`
}

// TryRequest names a tunnel.
type TryRequest struct {
	Tunnel string `json:"tunnel"`
}

// TryResponse is what came of it.
type TryResponse struct {
	Endpoint  string        `json:"endpoint"`
	Handshake time.Duration `json:"handshake"` // from the first packet to the gateway's answer
	Engine    string        `json:"engine"`
}

// wayChangesMethod is what WayChanges is called between processes, for the sake of releases of before: drains were all that it told of.
const wayChangesMethod = "Drains"

// RegisterTunnels serves t on server.
func RegisterTunnels(server *ttrpc.Server, t Tunnels) {
	server.RegisterService(TunnelsName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Guard":          method(t.Guard),
		"Attach":         method(t.Attach),
		"Reconcile":      method(t.Reconcile),
		"Release":        method(func(ctx context.Context, r ReleaseRequest) (none, error) { return none{}, t.Release(ctx, r) }),
		"Tunnels":        method(func(ctx context.Context, _ none) (TunnelsResponse, error) { return t.Tunnels(ctx) }),
		"Drain":          method(func(ctx context.Context, r DrainRequest) (none, error) { return none{}, t.Drain(ctx, r) }),
		wayChangesMethod: method(t.WayChanges),
		"Try":            method(t.Try),
	}})
}

// TunnelsClient calls tunneld. It implements Tunnels.
type TunnelsClient struct {
	ttrpc *ttrpc.Client
}

var _ Tunnels = (*TunnelsClient)(nil)

// DialTunnels connects to tunneld's unix socket.
func DialTunnels(ctx context.Context, socket string) (*TunnelsClient, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to forefend tunneld: %w", err)
	}
	return &TunnelsClient{ttrpc: ttrpc.NewClient(conn)}, nil
}

// Close ends the connection; calls under way fail.
func (c *TunnelsClient) Close() error { return c.ttrpc.Close() }

// Guard implements Tunnels.
func (c *TunnelsClient) Guard(ctx context.Context, r GuardRequest) (GuardResponse, error) {
	return callOf[GuardRequest, GuardResponse](ctx, c.ttrpc, TunnelsName, "Guard", r)
}

// Attach implements Tunnels.
func (c *TunnelsClient) Attach(ctx context.Context, r AttachRequest) (Attached, error) {
	return callOf[AttachRequest, Attached](ctx, c.ttrpc, TunnelsName, "Attach", r)
}

// Reconcile implements Tunnels.
func (c *TunnelsClient) Reconcile(ctx context.Context, r ReconcileRequest) (Reconciled, error) {
	return callOf[ReconcileRequest, Reconciled](ctx, c.ttrpc, TunnelsName, "Reconcile", r)
}

// Release implements Tunnels.
func (c *TunnelsClient) Release(ctx context.Context, r ReleaseRequest) error {
	_, err := callOf[ReleaseRequest, none](ctx, c.ttrpc, TunnelsName, "Release", r)
	return err
}

// Tunnels implements Tunnels.
func (c *TunnelsClient) Tunnels(ctx context.Context) (TunnelsResponse, error) {
	return callOf[none, TunnelsResponse](ctx, c.ttrpc, TunnelsName, "Tunnels", none{})
}

// Drain implements Tunnels.
func (c *TunnelsClient) Drain(ctx context.Context, r DrainRequest) error {
	_, err := callOf[DrainRequest, none](ctx, c.ttrpc, TunnelsName, "Drain", r)
	return err
}

// WayChanges implements Tunnels.
func (c *TunnelsClient) WayChanges(ctx context.Context, r WayChangesRequest) (WayChangesResponse, error) {
	return callOf[WayChangesRequest, WayChangesResponse](ctx, c.ttrpc, TunnelsName, wayChangesMethod, r)
}

// Try implements Tunnels.
func (c *TunnelsClient) Try(ctx context.Context, r TryRequest) (TryResponse, error) {
	return callOf[TryRequest, TryResponse](ctx, c.ttrpc, TunnelsName, "Try", r)
}
