// Package liar is a gateway's door that changes receipts on their way, for tests of those who must notice.
package liar

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/receipt"
	"forefend.dev/forefend/test/certificates"
)

// Door passes on what nodes ask of a gateway. It is honest until it is told how to lie.
type Door struct {
	to     string
	client *http.Client

	mu  sync.Mutex
	lie func(*receipt.Signed) // guarded by mu
}

// Stolen is what a Door has of both sides.
type Stolen struct {
	Gateway, Node tls.Certificate
	Authority     *x509.CertPool // that issued them
}

// Issued are certificates of an authority's for a gateway's host and a node.
func Issued(t testing.TB, a *certificates.Authority, host, node string) Stolen {
	t.Helper()
	var s Stolen
	var failed, err error
	s.Node, s.Authority, err = a.Credentials(t, node, a)()
	s.Gateway, _, failed = a.Credentials(t, host, a)()
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return s
}

// New opens a door on a listener, before the gateway at an address such as https://127.0.0.1:7443.
func New(t testing.TB, on net.Listener, to string, by Stolen) *Door {
	t.Helper()
	d := &Door{to: to, lie: func(*receipt.Signed) {}, client: &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{by.Node}, RootCAs: by.Authority}}}}
	s := &http.Server{Handler: d, TLSConfig: &tls.Config{Certificates: []tls.Certificate{by.Gateway}, ClientCAs: by.Authority, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}}
	go func() { _ = s.ServeTLS(on, "", "") }() // until Close
	t.Cleanup(func() {
		_ = s.Close()
		d.client.CloseIdleConnections()
	})
	return d
}

// Tells has all receipts from now on be changed.
func (d *Door) Tells(lie func(*receipt.Signed)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lie = lie
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, body, err := d.ask(r)
	if err != nil {
		status, body = http.StatusBadGateway, nil
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // who is gone does not hear it
}

func (d *Door) ask(r *http.Request) (status int, body []byte, err error) {
	q, err := http.NewRequestWithContext(r.Context(), r.Method, d.to+r.URL.Path, r.Body)
	if err != nil {
		return 0, nil, err
	}
	q.ContentLength = r.ContentLength
	got, err := d.client.Do(q)
	if err != nil {
		return 0, nil, err
	}
	defer got.Body.Close()
	if body, err = io.ReadAll(got.Body); err != nil || r.URL.Path != provision.PathReceipts || got.StatusCode != http.StatusOK {
		return got.StatusCode, body, err
	}
	var signed receipt.Signed
	if err := json.Unmarshal(body, &signed); err != nil {
		return 0, nil, err
	}
	d.mu.Lock()
	d.lie(&signed)
	d.mu.Unlock()
	body, err = json.Marshal(signed)
	return got.StatusCode, body, err
}

// Falsified changes each receipt, and signs what comes of it as the gateway with that state would.
func Falsified(t testing.TB, state string, change func(*receipt.Receipt)) func(*receipt.Signed) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(state, "receipts.key"))
	var saved struct{ Seed []byte }
	if err = errors.Join(err, json.Unmarshal(body, &saved)); err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(saved.Seed)
	return func(g *receipt.Signed) {
		s, err := receipt.Parse(g.Sheet)
		if err != nil {
			t.Error(err)
			return
		}
		for i := range s.Receipts {
			change(&s.Receipts[i])
		}
		*g = s.Sign(key)
	}
}
