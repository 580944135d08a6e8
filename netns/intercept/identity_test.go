package intercept

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/bearer"
)

// TestIdentities: who asks, and of which data, is found out for each request of one connection: by a token, by a claim, or by the workload; and
// each goes by the way of its own.
func TestIdentities(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"sub": "alice"}).SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, echo(t, "shared"), Limits{})
	r.dialer.to["alice"] = echo(t, "alice's")
	r.Set(&Settings{
		Base: flow.Context{Workload: "shop"}, Data: "internal", DataHeaders: []string{"x-data"}, UserHeaders: []string{"x-user"},
		TokenHeaders: []string{"authorization"}, Tokens: bearer.New(bearer.Config{Keys: []bearer.Key{{Public: public}}}),
	})
	r.rules.set(func(c flow.Context) (flow.Decision, error) {
		if c.User == "alice" && c.UserProof == flow.Verified {
			return endpoint("alice"), nil
		}
		return endpoint(""), nil
	})
	c := r.client()
	for _, q := range []struct {
		header string
		server string // "": malformed
		want   string // user, proof, data
	}{
		{"Authorization: Bearer " + token, "alice's", "alice token internal"},
		{"X-User: alice", "shared", "alice claim internal"},
		{"", "shared", "shop workload internal"},
		{"X-Data: CONFIDENTIAL\r\nX-User: bob", "shared", "bob claim confidential"},
		{"X-DATA: public\r\nx-data: public\r\nAuthorization: Bearer " + token, "alice's", "alice token public"},
		{"Authorization: Bearer " + token[:len(token)-4] + "AAAA\r\nX-User: eve", "shared", "eve claim internal"},
		{"Authorization: Bearer " + token, "alice's", "alice token internal"},
	} {
		header := strings.TrimSuffix(q.header+"\r\n", "\r\n\r\n")
		if q.header == "" {
			header = ""
		}
		c.want("GET /a HTTP/1.1\r\nHost: x.test\r\n"+header+"\r\n", "GET", 200, q.server+" GET /a ")
		seen := r.rules.contexts()
		last := seen[len(seen)-1]
		if got := fmt.Sprintf("%s %s %s", last.User, last.UserProof, last.Data); got != q.want {
			t.Errorf("%.40q is asked by %s, want %s", q.header, got, q.want)
		}
		if (last.Credential == flow.Credential(token)) != (last.UserProof == flow.Verified) {
			t.Errorf("%.40q has the credential %q", q.header, string(last.Credential))
		}
	}
	c.want("GET /a HTTP/1.1\r\nHost: x.test\r\nX-Data: public\r\nx-data: PUBLIC\r\n\r\n", "GET", 400, "")
}

// TestEventsIdle: a stream of events that is silent for longer than anything may take that is waited for goes on after it.
func TestEventsIdle(t *testing.T) {
	more := make(chan struct{})
	r := newRig(t, server(t, func(c *client) {
		if req, _ := c.request(); req == nil {
			return
		}
		c.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
		<-more
		c.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n")
	}), Limits{Head: time.Second, FirstByte: time.Second, Dial: time.Second}) // which a busy machine keeps to
	c := r.client()
	c.send("GET /events HTTP/1.1\r\nHost: x.test\r\n\r\n")
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 9)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "data: 1\n\n" {
		t.Fatalf("%q, %v", first, err)
	}
	time.AfterFunc(2*time.Second, func() { close(more) })
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "data: 2\n\n" {
		t.Errorf("%q, %v", rest, err)
	}
}
