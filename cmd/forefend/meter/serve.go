package meter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// Bounds of what a scraper, which on the loopback interface is anybody on the node, can make the daemon do.
const (
	requestTimeout = 10 * time.Second
	maxHeader      = 16 << 10
	maxScrapes     = 4
	maxConnections = 16
)

// Listen opens what scrapes come in on: network and address are of package net. A unix socket is root's alone, and
// replaces one that nobody listens on any more.
func Listen(network, address string) (net.Listener, error) {
	if network != "unix" {
		l, err := net.Listen(network, address)
		if err != nil {
			return nil, fmt.Errorf("listen for scrapes: %w", err)
		}
		return l, nil
	}
	info, err := os.Lstat(address)
	switch {
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("listen for scrapes: %s is there and not a socket", address)
	case err == nil && answers(address):
		return nil, fmt.Errorf("listen for scrapes: somebody listens on %s already", address)
	}
	// Nobody may connect between listen and chmod, wherever the site put the socket: it gets its name last.
	fresh := fmt.Sprintf("%s.%d", address, os.Getpid())
	if len(fresh) >= len(unix.RawSockaddrUnix{}.Path) {
		fresh = address
	}
	_ = os.Remove(fresh) // of a process with our id that was killed in this moment
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for scrapes: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, address)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for scrapes: %w", err), l.Close(), os.Remove(fresh))
	}
	return named{l, address}, nil
}

func answers(socket string) bool {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close() // it was only a knock
	return true
}

// named removes its socket when it is closed.
type named struct {
	net.Listener
	path string
}

// Close implements net.Listener.
func (n named) Close() error {
	return errors.Join(n.Listener.Close(), os.Remove(n.path))
}

// Figures are what a process shows of itself.
type Figures struct {
	registry *prometheus.Registry
}

// Handler serves the figures below /metrics.
func (f *Figures) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, Timeout: requestTimeout, ErrorHandling: promhttp.ContinueOnError,
	}))
	return mux
}

// Serve answers scrapes on l, which it closes, until ctx ends.
func (f *Figures) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: f.Handler(), ReadTimeout: requestTimeout, WriteTimeout: 2 * requestTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(l, maxConnections)) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve metrics: %w", errors.Join(err, l.Close()))
	case <-ctx.Done():
	}
	err := server.Close() // a scraper tries again
	<-served
	return err
}
