package config

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// The words of [metrics] listen.
const (
	metricsUnix = "unix" // the socket in State
	metricsOff  = "off"
)

// MetricsAddress returns what to listen on for metrics: a network of package net and an address. Both are empty when
// nobody is to listen.
func (c *Config) MetricsAddress() (network, address string) { return c.Metrics.address(c.State) }

// MetricsAddress is as that of Config.
func (g *Gateway) MetricsAddress() (network, address string) { return g.Metrics.address(g.State) }

func (m Metrics) address(state string) (network, address string) {
	switch path, isPath := strings.CutPrefix(m.Listen, metricsUnix+":"); {
	case m.Listen == metricsOff:
		return "", ""
	case m.Listen == metricsUnix:
		return "unix", filepath.Join(state, "metrics.sock")
	case isPath:
		return "unix", path
	}
	return "tcp", m.Listen
}

// listen reads where metrics are served: figures about what a node runs are nobody else's on the network.
func (t *table) listen(key string, into *string) {
	const fix = `write "unix" (a socket in the state directory), "unix:/path/of/a/socket", "127.0.0.1:9469" or "off"`
	s := *into
	if !t.text(key, &s) {
		return
	}
	if path, isPath := strings.CutPrefix(s, metricsUnix+":"); isPath {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || len(path) > maxSocketPath || strings.ContainsAny(path, "\x00\n") {
			t.problem(t.at(key), fix, "%.120q is not the absolute path of a socket, of at most %d bytes", path, maxSocketPath)
			return
		}
		*into = s
		return
	}
	if s == metricsUnix || s == metricsOff {
		*into = s
		return
	}
	host, port, err := net.SplitHostPort(s)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 {
		t.problem(t.at(key), fix, "%.60q is not an address with a port", s)
		return
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		t.problem(t.at(key), fix+"; to scrape from elsewhere, put a proxy that authenticates in front",
			"%.60q is not an address of the loopback interface: anybody on the network could read it", host)
		return
	}
	*into = s
}
