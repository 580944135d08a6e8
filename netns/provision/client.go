package provision

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Deadlines of a client. A caller may have shorter ones.
const (
	dialDeadline  = 3 * time.Second
	callDeadline  = 5 * time.Second
	alertDeadline = time.Second      // to hear why a connection was ended
	keepOpen      = 2 * time.Minute  // an idle connection
	ping          = 15 * time.Second // of an idle connection; one that is not answered for as long again is gone
)

// Credentials are the certificate of one end, and whose certificates of the other end are believed. They are asked for with each new
// connection, so that renewed ones are taken.
type Credentials func() (tls.Certificate, *x509.CertPool, error)

// Client is a node's side. Its methods may be called from any goroutine.
type Client struct {
	base string
	http *http.Client
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewClient makes a client of the gateway at an address such as https://gateway.example:7443. It opens nothing yet.
func NewClient(gateway string, c Credentials) (*Client, error) {
	u, err := url.Parse(gateway)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%.100q is no address of a gateway, write https://HOST:PORT", gateway)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "443")
	}
	dial := c.dial(u.Hostname())
	transport := &http.Transport{
		ForceAttemptHTTP2: true, IdleConnTimeout: keepOpen, MaxConnsPerHost: 2, MaxResponseHeaderBytes: 16 << 10,
		HTTP2:          &http.HTTP2Config{SendPingTimeout: ping, PingTimeout: ping},
		DialTLSContext: dial,
	}
	client := &http.Client{Transport: transport, Timeout: callDeadline, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("a gateway does not send elsewhere")
	}}
	return &Client{base: "https://" + u.Host, http: client, dial: dial}, nil
}

// dial makes connections to a gateway of a name.
func (c Credentials) dial(name string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		cert, roots, err := c()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, dialDeadline)
		defer cancel()
		d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: name, Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}}
		return d.DialContext(ctx, network, address)
	}
}

// Close closes connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Allocate asks for a peer.
func (c *Client) Allocate(ctx context.Context, r Allocate) (*Granted, error) {
	r.Version = Version
	var g Granted
	if err := c.call(ctx, http.MethodPost, PathLeases, r, &g); err != nil {
		return nil, err
	}
	return c.granted(&g, r.PublicKey, r.Preshared)
}

// Rekey has a lease go on with another key.
func (c *Client) Rekey(ctx context.Context, lease string, r Rekey) (*Granted, error) {
	r.Version = Version
	var g Granted
	if err := c.call(ctx, http.MethodPost, PathLeases+"/"+lease+"/key", r, &g); err != nil {
		return nil, err
	}
	return c.granted(&g, r.PublicKey, r.Preshared)
}

func (c *Client) granted(g *Granted, key string, preshared bool) (*Granted, error) {
	err := g.Check(key)
	if err == nil && preshared && g.Lease.PresharedKey == "" {
		err = errors.New("a pre-shared key was asked for, and there is none")
	}
	if err != nil {
		return nil, fmt.Errorf("gateway %s answered what is no lease: %w: %w", c.base, err, errdefs.ErrUnavailable)
	}
	return g, nil
}

// Renew keeps leases for another term.
func (c *Client) Renew(ctx context.Context, leases []string) (*Renewed, error) {
	var r Renewed
	if err := c.call(ctx, http.MethodPost, PathRenew, Renew{Version, leases}, &r); err != nil {
		return nil, err
	}
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("gateway %s answered what is no renewal: %w: %w", c.base, err, errdefs.ErrUnavailable)
	}
	return &r, nil
}

// Release gives a lease back. One that the gateway does not know is given back already.
func (c *Client) Release(ctx context.Context, lease string) error {
	err := c.call(ctx, http.MethodDelete, PathLeases+"/"+lease, nil, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Stats tells how this node's leases fare.
func (c *Client) Stats(ctx context.Context) (*Stats, error) {
	var s Stats
	return &s, c.call(ctx, http.MethodGet, PathStats, nil, &s)
}

// call sends a request and reads its answer, where there is one.
func (c *Client) call(ctx context.Context, method, path string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	if request == nil {
		body = nil
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	got, err := c.http.Do(r)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer got.Body.Close()
	if got.StatusCode >= 300 {
		return c.refused(got)
	}
	if answer == nil {
		return nil
	}
	if err := Decode(got.Body, 8*MaxMessage, answer); err != nil {
		return fmt.Errorf("gateway %s: %w: %w", c.base, err, errdefs.ErrUnavailable)
	}
	return nil
}

// unreachable says in plain words what most often is wrong.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	why := err
	switch {
	case errors.As(err, &unknown):
		why = fmt.Errorf("its certificate is not of this tunnel's ca_file: %w", unknown)
	case errors.As(err, &name):
		why = fmt.Errorf("its certificate is of another host: %w", name)
	case errors.Is(err, context.DeadlineExceeded):
		why = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	default:
		if alert := c.alert(ctx, err); alert != nil {
			why = fmt.Errorf("it refuses this node's certificate (cert_file, key_file; is it of the gateway's client_ca_file?): %w", alert)
		}
	}
	return fmt.Errorf("gateway %s cannot be asked: %w: %w", c.base, why, errdefs.ErrUnavailable)
}

// alert is the TLS alert that ended a request, nil for another end. In TLS 1.3 a client has sent its request by the time the server has
// looked at its certificate, and whether it then reads the alert, a reset or nothing is a matter of chance (RFC 8446, section 4.4.2.4):
// where it was not the alert, a connection that sends nothing is made to read it.
func (c *Client) alert(ctx context.Context, err error) error {
	if isAlert(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, alertDeadline)
	defer cancel()
	conn, err := c.dial(ctx, "tcp", strings.TrimPrefix(c.base, "https://"))
	if err != nil {
		return nil
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return nil
		}
	}
	if _, err := conn.Read(make([]byte, 1)); isAlert(err) { // a gateway that agrees speaks first (RFC 9113, section 3.4)
		return err
	}
	return nil
}

// isAlert finds the peer's alert in an error of crypto/tls, where alerts have no type of their own.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// refused is the gateway's answer as an error of errdefs.
func (c *Client) refused(got *http.Response) error {
	var f Failure
	if err := Decode(got.Body, MaxMessage, &f); err != nil || f.Error == "" {
		f.Error = got.Status
	}
	var kind error = errdefs.ErrUnavailable
	switch got.StatusCode {
	case http.StatusForbidden:
		kind = errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		kind = errdefs.ErrNotFound
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusConflict:
		kind = errdefs.ErrInvalidArgument
	case http.StatusNotImplemented:
		kind = errdefs.ErrNotImplemented
	case http.StatusTooManyRequests, http.StatusInsufficientStorage:
		kind = errdefs.ErrResourceExhausted
	}
	return &refusal{fmt.Sprintf("gateway %s: %.400s", c.base, f.Error), kind}
}

// refusal is an answer of a gateway's, whose words say already what kind it is.
type refusal struct {
	words string
	kind  error
}

func (r *refusal) Error() string { return r.words }

// Unwrap implements errors.Is.
func (r *refusal) Unwrap() error { return r.kind }
