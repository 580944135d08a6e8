package tunnel

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/netns/provision"
	"forefend.dev/forefend/netns/receipt"
	"forefend.dev/forefend/test/certificates"
)

// TestMoreWithoutReceipts asks a gateway that says with every answer that there is more.
func TestMoreWithoutReceipts(t *testing.T) {
	authority := certificates.New(t)
	pair, pool, err := authority.Credentials(t, "127.0.0.1", authority)()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var q provision.Receipts
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				t.Error(err)
			}
			s := receipt.Sheet{Client: "node-1", Nonce: receipt.Nonce(q.Nonce), At: time.Now(), Since: time.Now(), After: q.After, Last: q.After, More: true}
			switch n := asked.Add(1); {
			case n == 1: // one that is, and it goes on
				s.Last++
				s.Receipts = []receipt.Receipt{{Serial: s.Last, Peer: netip.MustParseAddrPort("10.8.0.2:1"), Server: netip.MustParseAddrPort("192.0.2.1:1")}}
			case n > 20:
				cancel()
			case n%2 == 0:
				s.Last++ // serials go on, receipts do not come
			}
			_ = json.NewEncoder(w).Encode(s.Sign(key))
		}),
	}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, "", "") }()
	defer func() {
		_ = server.Close()
		<-done
	}()
	at := "https://" + l.Addr().String()
	client, err := provision.NewClient(at, authority.Credentials(t, "node-1", authority))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	f := &distant{tunnel: "far", gateway: Gateway{Address: at}, client: client, now: time.Now}
	var brought []uint64
	_, err = f.receipts(ctx, func(s *receipt.Sheet, _ time.Time) {
		for _, r := range s.Receipts {
			brought = append(brought, r.Serial)
		}
	})
	if !errdefs.IsUnavailable(err) || errors.Is(err, receipt.ErrForged) || !strings.Contains(fmt.Sprint(err), at) || asked.Load() != 2 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
	if !slices.Equal(brought, []uint64{1}) {
		t.Errorf("receipts %v were brought", brought)
	}
}
