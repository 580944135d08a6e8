package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/runtime/reception"
)

// What nodes may take of a gateway's door (docs/gateway.md). A node has a connection for each tunnel that it has of the gateway, for a moment two more,
// and asks little: a renewal in minutes, and when containers come and go.
const (
	doorConnections = 2048     // at once, of all; when they are taken, who has most makes room for who has fewer
	doorOfOne       = 32       // of one client, and of all together who are none
	doorGreetings   = 256      // at once that have shown no certificate yet
	doorStreams     = 32       // at once, of one connection
	doorTurns       = 16       // requests of one client that are worked on at once; the others wait
	doorFrame       = 16 << 10 // bytes; a frame's room is taken when it is announced
	doorUnread      = 64 << 10 // bytes of one connection's requests that nobody has read
	doorDeadline    = 10 * time.Second
	doorHello       = 5 * time.Second // for a handshake and a request's head
	doorIdle        = 5 * time.Minute
	doorPing        = 30 * time.Second // of an idle connection; one that is not answered for as long again is gone
	doorHead        = 8 << 10          // bytes
	clientRate      = 50               // requests of one client, per second
	clientBurst     = 200              // and at once
	doorEnd         = 2 * time.Second
)

// Door serves a gateway to nodes that show a certificate. The name of a node is its certificate's: its one DNS name, or where it has none the
// common name.
type Door struct {
	gateway     *Gateway
	credentials provision.Credentials
	reception   *reception.Reception
	turns       turns
	answers     answers
}

// NewDoor makes the door of a gateway. credentials are those of the gateway, and whose certificates nodes have.
func NewDoor(g *Gateway, credentials provision.Credentials) *Door {
	return newDoor(g, credentials, doorConnections)
}

// newDoor makes one with room for so many connections.
func newDoor(g *Gateway, credentials provision.Credentials, connections int) *Door {
	d := &Door{gateway: g, credentials: credentials, turns: turns{most: doorTurns, of: make(map[string]*turn)}, answers: answers{of: make(map[Answer]uint64)}}
	d.reception = reception.New(reception.Terms{
		Guests: connections, OfOne: doorOfOne, Greetings: doorGreetings, Within: doorHello, Rate: clientRate, Burst: clientBurst,
		TLS: d.greet, Name: d.account, Tell: tellRefusal,
	})
	return d
}

// Serve answers on a TCP listener, which it closes, until ctx ends.
func (d *Door) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: d.handler(), ReadHeaderTimeout: doorHello, ReadTimeout: doorDeadline, WriteTimeout: doorDeadline, IdleTimeout: doorIdle, MaxHeaderBytes: doorHead,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: doorStreams, MaxReadFrameSize: doorFrame, MaxReceiveBufferPerConnection: doorUnread,
			MaxReceiveBufferPerStream: doorUnread, SendPingTimeout: doorPing, PingTimeout: doorPing},
		ErrorLog: stdlog.New(io.Discard, "", 0), BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, guestKey{}, reception.Of(c))
		},
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(d.reception.Listen(l)) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve nodes: %w", err)
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), doorEnd)
	defer cancel()
	if server.Shutdown(bounded) != nil {
		_ = server.Close() // who is still waiting has waited long enough
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve nodes: %w", err)
	}
	return nil
}

// guestKey is where a request's context has the *reception.Guest who asks.
type guestKey struct{}

// greet is how a connection is taken, with the credentials as they are now.
func (d *Door) greet() (*tls.Config, error) {
	cert, roots, err := d.credentials()
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, SessionTicketsDisabled: true}, nil
}

// account is by which a certificate's connections and requests are counted. Those who are no clients have one together: they are let in to be
// told so, and however many names they have, that is all they hold.
func (d *Door) account(c *x509.Certificate) (string, error) {
	name, err := NodeName(c)
	if err != nil || !d.gateway.IsClient(name) {
		return "", nil
	}
	return name, nil
}

func tellRefusal(r reception.Refusal) {
	r.Log("client").Warn("forefend gateway: a node was not let in")
}

// NodeName is whom a certificate names.
func NodeName(c *x509.Certificate) (string, error) {
	switch {
	case len(c.DNSNames) == 1:
		return c.DNSNames[0], nil
	case len(c.DNSNames) == 0 && c.Subject.CommonName != "":
		return c.Subject.CommonName, nil
	}
	return "", fmt.Errorf("a node's certificate has one DNS name, or a common name; this has %d DNS names", len(c.DNSNames))
}

func (d *Door) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(request, pattern string, do func(client string, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { d.answers.count(request, d.answer(w, r, do)) })
	}
	g := d.gateway
	handle("allocate", "POST "+provision.PathLeases, func(client string, r *http.Request) (any, error) {
		var m provision.Allocate
		if err := read(r, &m); err != nil {
			return nil, err
		}
		return g.Allocate(client, m)
	})
	handle("rekey", "POST "+provision.PathLeases+"/{id}/key", func(client string, r *http.Request) (any, error) {
		var m provision.Rekey
		if err := read(r, &m); err != nil {
			return nil, err
		}
		return g.Rekey(client, r.PathValue("id"), m)
	})
	handle("renew", "POST "+provision.PathRenew, func(client string, r *http.Request) (any, error) {
		var m provision.Renew
		if err := read(r, &m); err != nil {
			return nil, err
		}
		return g.Renew(client, m)
	})
	handle("release", "DELETE "+provision.PathLeases+"/{id}", func(client string, r *http.Request) (any, error) {
		return nil, g.Release(client, r.PathValue("id"))
	})
	handle("stats", "GET "+provision.PathStats, func(client string, _ *http.Request) (any, error) { return g.Stats(client) })
	handle("receipts", "POST "+provision.PathReceipts, func(client string, r *http.Request) (any, error) {
		var m provision.Receipts
		if err := read(r, &m); err != nil {
			return nil, err
		}
		return g.Receipts(client, m)
	})
	handle("other", "/", func(_ string, r *http.Request) (any, error) {
		return nil, fmt.Errorf("there is no %.10s %.60q here: %w", r.Method, r.URL.Path, errdefs.ErrNotFound)
	})
	return mux
}

// read reads a request's message.
func read(r *http.Request, into any) error {
	if err := provision.Decode(r.Body, provision.MaxMessage, into); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// answer does what a client asks for, if it may ask, and returns the status that it is told.
func (d *Door) answer(w http.ResponseWriter, r *http.Request, do func(string, *http.Request) (any, error)) int {
	client, err := d.client(r)
	var out any
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), doorDeadline)
		defer cancel()
		var done func()
		if done, err = d.turns.take(ctx, client); err == nil {
			defer done()
			out, err = do(client, r)
		}
	}
	if err != nil {
		return d.fail(w, r, client, err)
	}
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // who is gone does not hear it
	return http.StatusOK
}

// client is who asks. Names and validity are looked at with every request: connections live long.
func (d *Door) client(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.PeerCertificates) == 0 {
		return "", fmt.Errorf("a certificate is needed: %w", errdefs.ErrPermissionDenied)
	}
	c := r.TLS.PeerCertificates[0]
	name, err := NodeName(c)
	if g, ok := r.Context().Value(guestKey{}).(*reception.Guest); ok && !g.May(1) {
		return name, fmt.Errorf("%.253q asks for more than %d times a second: %w", name, clientRate, errdefs.ErrResourceExhausted)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	case time.Now().After(c.NotAfter):
		return name, fmt.Errorf("the certificate of %.253q has ended: %w", name, errdefs.ErrPermissionDenied)
	case !d.gateway.IsClient(name):
		return name, fmt.Errorf("%.253q is not in the gateway's list of clients: %w", name, errdefs.ErrPermissionDenied)
	}
	return name, nil
}

// fail tells what is wrong. What only an operator can mend is logged, too.
func (d *Door) fail(w http.ResponseWriter, r *http.Request, client string, err error) int {
	status := http.StatusServiceUnavailable
	switch {
	case errdefs.IsPermissionDenied(err):
		status = http.StatusForbidden
		w.Header().Set("Connection", "close")
	case errdefs.IsNotFound(err):
		status = http.StatusNotFound
	case errdefs.IsInvalidArgument(err):
		status = http.StatusBadRequest
	case errdefs.IsResourceExhausted(err):
		status = http.StatusTooManyRequests
	case errdefs.IsNotImplemented(err):
		status = http.StatusNotImplemented
	default:
		log.G(r.Context()).WithError(err).WithField("client", client).Error("forefend gateway: a request cannot be answered")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(provision.Failure{Version: provision.Version, Error: plain(err)}) // who is gone does not hear it
	return status
}

// plain is an error without the name of its kind, which the status says.
func plain(err error) string {
	text := err.Error()
	for _, kind := range []error{errdefs.ErrPermissionDenied, errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrResourceExhausted, errdefs.ErrNotImplemented, errdefs.ErrUnavailable} {
		text = strings.TrimSuffix(text, ": "+kind.Error())
	}
	return text
}
