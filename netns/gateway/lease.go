package gateway

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"time"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/wg"
)

// lease is a peer in a node's hands, as it is written down.
type lease struct {
	ID     string `json:"id"`
	Client string `json:"client"`
	Number uint32 `json:"number"` // of its addresses
	Key    string `json:"key"`    // the node's public one
	Shared string `json:"shared,omitempty"`
	Class  string `json:"class,omitempty"`

	until time.Time // when it ends
}

// check tells what is wrong with one that was read.
func (l *lease) check() error {
	if !provision.IsID(l.ID) || l.Client == "" || len(l.Client) > maxClient || len(l.Class) > maxClient {
		return errors.New("not a lease")
	}
	_, err := wg.ParseKey(l.Key)
	if l.Shared != "" {
		_, bad := wg.ParseKey(l.Shared)
		err = errors.Join(err, bad)
	}
	return err
}

// maxClient bounds names, in bytes.
const maxClient = 253

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

func newShared() string {
	var k wg.Key
	_, _ = rand.Read(k[:]) // it never fails
	return base64.StdEncoding.EncodeToString(k[:])
}

// public is the node's key.
func (l *lease) public() wg.Key {
	k, _ := wg.ParseKey(l.Key) // it was checked
	return k
}

// peer is the lease as WireGuard has it.
func (l *lease) peer(a *addresses) wg.Peer {
	p := wg.Peer{Public: l.public(), Allowed: a.of(l.Number)}
	if l.Shared != "" {
		p.Shared, _ = wg.ParseKey(l.Shared) // it was checked
	}
	return p
}
