package api

import (
	"context"

	"github.com/containerd/ttrpc"
)

// UplinksName is a second ttrpc service of `forefend tunneld`, on the same socket.
const UplinksName = "forefend.tunneld.v1.Uplinks"

// Uplinks are the devices on which tunneld keeps an order among QoS classes.
type Uplinks interface {
	// Uplinks lists them. A tunneld without the service has none.
	Uplinks(context.Context) (UplinksResponse, error)
}

// UplinksResponse is the list.
type UplinksResponse struct {
	Uplinks []Uplink `json:"uplinks"`
}

// Uplink is how it stands with one.
type Uplink struct {
	Device  string        `json:"device"`
	Rate    int64         `json:"rate"` // bytes a second
	Status  string        `json:"status"`
	Why     string        `json:"why,omitempty"`   // unless it is kept
	Queue   string        `json:"queue,omitempty"` // of its classes
	Classes []UplinkClass `json:"classes,omitempty"`
}

// The statuses of uplinks. On one that is not kept, classes have no order.
const (
	UplinkKept        = "kept"
	UplinkForeign     = "foreign"     // somebody else gave the device a queueing discipline
	UplinkUnsupported = "unsupported" // the kernel lacks something
	UplinkAbsent      = "absent"      // there is no such device
	UplinkFailed      = "failed"
)

// UplinkClass is what a class of an uplink did since that is kept.
type UplinkClass struct {
	Class   string `json:"class"`
	Sent    uint64 `json:"sent"` // bytes
	Packets uint64 `json:"packets"`
	Dropped uint64 `json:"dropped"` // packets, because too many waited
	Waiting uint64 `json:"waiting"` // bytes
}

// RegisterUplinks serves u on server.
func RegisterUplinks(server *ttrpc.Server, u Uplinks) {
	server.RegisterService(UplinksName, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Uplinks": method(func(ctx context.Context, _ none) (UplinksResponse, error) { return u.Uplinks(ctx) }),
	}})
}

// Uplinks implements Uplinks.
func (c *TunnelsClient) Uplinks(ctx context.Context) (UplinksResponse, error) {
	return callOf[none, UplinksResponse](ctx, c.ttrpc, UplinksName, "Uplinks", none{})
}
