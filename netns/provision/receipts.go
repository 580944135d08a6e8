package provision

import (
	"context"
	"fmt"
	"net/http"

	"forefend.dev/forefend/netns/receipt"
)

// PathReceipts is where receipts are asked for.
const PathReceipts = "/v1/receipts"

// Receipts asks what the gateway has counted for this node's leases since a serial.
type Receipts struct {
	Version int    `json:"version"`
	Nonce   []byte `json:"nonce"` // made for this question; the answer has it
	After   uint64 `json:"after"`
}

// Check tells what is wrong with a request.
func (r *Receipts) Check() error {
	if len(r.Nonce) != len(receipt.Nonce{}) {
		return fmt.Errorf("a nonce of %d bytes, it has %d", len(r.Nonce), len(receipt.Nonce{}))
	}
	return checkVersion(r.Version)
}

// Receipts asks for receipts. The answer is not checked yet: see receipt.Signed.
func (c *Client) Receipts(ctx context.Context, q receipt.Question) (*receipt.Signed, error) {
	var s receipt.Signed
	return &s, c.call(ctx, http.MethodPost, PathReceipts, Receipts{Version, q.Nonce[:], q.After}, &s)
}
