// Package credentials has the files of one end of mutual TLS: who this is, and whose certificates of the other end are believed. Central
// decisions and gateways of tunnels are reached with them. Its methods may be called from any goroutine.
package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Files are those of one end, in PEM. They are read again when a connection begins, at most once a second, so that new
// certificates need no restart.
type Files struct {
	CA, Cert, Key string // paths

	mu   sync.Mutex
	at   time.Time       // when they were read; guarded by mu
	cert tls.Certificate // guarded by mu
	pool *x509.CertPool  // guarded by mu
	err  error           // guarded by mu
}

const (
	reread = time.Second
	maxPEM = 1 << 20 // bytes of one file
)

// Load returns what the files hold now: this end's certificate, and whose of the other end are believed.
func (c *Files) Load() (tls.Certificate, *x509.CertPool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.at.IsZero() || now.Sub(c.at) > reread {
		c.cert, c.pool, c.err = c.read()
		c.at = now
	}
	return c.cert, c.pool, c.err
}

func (c *Files) read() (cert tls.Certificate, pool *x509.CertPool, err error) {
	if info, err := os.Stat(c.Key); err == nil && info.Mode().Perm()&0o077 != 0 {
		return cert, nil, fmt.Errorf("%s has mode %s: chmod 600 it, nobody else may read it", c.Key, info.Mode())
	}
	var pem [3][]byte
	for i, file := range []string{c.CA, c.Cert, c.Key} {
		if pem[i], err = readPEM(file); err != nil {
			return cert, nil, err
		}
	}
	pool = x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem[0]) {
		return cert, nil, fmt.Errorf("%s holds no certificate in PEM", c.CA)
	}
	if cert, err = tls.X509KeyPair(pem[1], pem[2]); err != nil {
		return cert, nil, fmt.Errorf("%s and %s: %w", c.Cert, c.Key, err)
	}
	return cert, pool, nil
}

func readPEM(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = fmt.Errorf("%s has more than %d KiB", file, maxPEM>>10)
	}
	return data, err
}

// Check tells what is wrong with the files now.
func (c *Files) Check() error {
	_, _, err := c.Load()
	return err
}

// Server is how connections are taken, with what the files hold now.
func (c *Files) Server() (*tls.Config, error) {
	cert, pool, err := c.Load()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, // each connection proves itself by a certificate that is believed now
	}, nil
}

// Dialer returns what connects to an address whose certificate has a name.
func (c *Files) Dialer(address, name string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		cert, pool, err := c.Load()
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{
			NetDialer: &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}},
			Config:    &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: name},
		}
		return d.DialContext(ctx, "tcp", address)
	}
}
