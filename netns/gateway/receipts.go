package gateway

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/receipt"
)

// openReceipts has the gateway count the connections of the leases that it has.
func (g *Gateway) openReceipts(ctx context.Context, ns *enter.Namespace) error {
	s, err := openSeal(g.config.State)
	if err != nil {
		return err
	}
	counted, err := openConns(ns)
	if errdefs.IsNotImplemented(err) {
		log.G(ctx).WithError(err).Warn("forefend gateway: nodes get no receipts")
		return nil
	}
	if err != nil {
		return err
	}
	g.keep(ctx, counted, s)
	return nil
}

// keep begins the book of connections.
func (g *Gateway) keep(ctx context.Context, c conns, s seal) {
	g.seal, g.book = s.key(), newBook(c, s.serial(), g.now)
	for _, l := range g.leases { // nobody else has g yet
		g.own(l)
	}
	g.counting.Go(func() {
		g.book.run(func(err error) {
			g.mu.Lock()
			g.figures.Missed++
			g.mu.Unlock()
			log.G(ctx).WithError(err).Warn("forefend gateway: ends of connections were missed; of those that live there will be no receipts from their beginning")
		})
	})
}

// own has a lease's connections counted as its. mu is held, or nobody else has g yet.
func (g *Gateway) own(l *lease) {
	if g.book == nil {
		return
	}
	g.book.own(l.Client, l.ID, g.clients[l.Client].Leases, g.addresses.of(l.Number))
}

// closeReceipts ends the counting.
func (g *Gateway) closeReceipts() error {
	if g.book == nil {
		return nil
	}
	err := g.book.close()
	g.counting.Wait()
	return err
}

// ReceiptKey is the public key of receipts, in base64; "" where there are none.
func (g *Gateway) ReceiptKey() string {
	if g.book == nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(g.seal.Public().(ed25519.PublicKey))
}

// Receipts are what a client's leases have sent and were sent, by connection.
func (g *Gateway) Receipts(client string, r provision.Receipts) (*receipt.Signed, error) {
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if g.book == nil {
		return nil, fmt.Errorf("the gateway's kernel does not count connections: %w", errdefs.ErrNotImplemented)
	}
	s, err := g.book.answer(client, receipt.Nonce(r.Nonce), r.After)
	if errdefs.IsInvalidArgument(err) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	signed := s.Sign(g.seal)
	return &signed, nil
}
