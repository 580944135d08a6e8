package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
)

// TestContactsOfThoseGone: what is known of a container ends with it.
func TestContactsOfThoseGone(t *testing.T) {
	c := newContacts(make(told))
	c.close() // nobody is told
	to := netip.MustParseAddrPort("192.0.2.1:443")
	for _, id := range []string{"", "pod", "stays", "goes"} {
		c.note(&flow.Context{Container: id, Protocol: flow.TLS, Host: "www.example", Destination: to})
	}
	c.only(&document.Document{Base: flow.Context{Container: "pod"}, Containers: []document.Container{{Base: flow.Context{Container: "stays"}}}})
	if _, known := c.known["goes"]; known || len(c.known) != 3 {
		t.Errorf("%v", c.known)
	}
}

// told is a shim that is told of contacts.
type told chan map[string]uint64

func (t told) Ask(ctx context.Context, method string, body []byte) ([]byte, error) {
	var m egress.Contacts
	if err := json.Unmarshal(body, &m); err != nil || method != api.AskContacts || m.Container != "c1" {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	select {
	case t <- m.Names:
		return []byte("{}"), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// The shim hears of hosts by name, bounded, and of no claims.
func TestContacts(t *testing.T) {
	shim := make(told)
	c := newContacts(shim)
	defer c.close()
	to := netip.MustParseAddrPort("192.0.2.1:443")
	c.note(&flow.Context{Container: "c1", Protocol: flow.TLS, Host: "www.example", Destination: to})
	got := <-shim
	for _, x := range []flow.Context{
		{Container: "c1", Protocol: flow.TLS, Destination: to}, {Container: "c1", Protocol: flow.TLS, Host: "claimed.example", HostProof: flow.Claimed, Destination: to},
		{Container: "c1", Protocol: flow.DNS, Host: "asked.example", Destination: to}, {Container: "c1", Protocol: flow.HTTP, Host: "192.0.2.1", Destination: to},
		{Container: "c1", Protocol: flow.TLS, Host: strings.Repeat("a.", 100) + "example", Destination: to},
		{Container: "c1", Protocol: flow.Opaque, Host: "db.example", HostProof: flow.Answered, Destination: netip.MustParseAddrPort("192.0.2.2:5432")},
	} {
		c.note(&x)
	}
	for got["tcp/db.example:5432"] == 0 {
		for key, n := range <-shim {
			got[key] += n
		}
	}
	if want := map[string]uint64{"tcp/www.example:443": 1, "tcp/db.example:5432": 1}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for i := range 2 * mostContacts {
		c.note(&flow.Context{Container: "c1", Protocol: flow.TLS, Host: fmt.Sprintf("h%d.example", i), Destination: to})
	}
	for len(got) < mostContacts {
		maps.Copy(got, <-shim)
	}
}
