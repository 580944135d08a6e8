package intercept

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"forefend.dev/forefend/netns/flow"
)

// hijack is a request as docker's clients send it whose library writes head and body one after the other.
const (
	hijack     = "POST /exec HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 13\r\n\r\n"
	hijackBody = `{"Tty": true}`
	switching  = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)

// head reads a response's head.
func (c *client) head() string {
	c.t.Helper()
	var all strings.Builder
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = c.r.ReadString('\n'); err != nil {
			c.t.Fatalf("%q, %v", all.String(), err)
		}
		all.WriteString(line)
	}
	return all.String()
}

// TestUpgradeWithBody: another protocol begins where the request's body ends, whether that comes with the head, after it, or after the
// server's word.
func TestUpgradeWithBody(t *testing.T) {
	for name, early := range map[string]bool{"after the body": false, "before it": true} {
		t.Run(name, func(t *testing.T) {
			addr := server(t, func(c *client) {
				if c.head() != hijack {
					t.Error("another request")
				}
				if early {
					c.send(switching)
				}
				body := make([]byte, len(hijackBody))
				if _, err := io.ReadFull(c.r, body); err != nil || string(body) != hijackBody {
					t.Errorf("%q, %v", body, err)
				}
				if !early {
					c.send(switching)
				}
				_, _ = io.Copy(c, c.r)
			})
			r := newRig(t, addr, Limits{})
			c := r.client()
			c.send(hijack)
			eventually(t, func() error { // the head went alone
				if f := r.Flows(); len(f) != 1 || f[0].Sent != int64(len(hijack)) {
					return fmt.Errorf("%+v", f)
				}
				return nil
			})
			c.send(hijackBody + "and more")
			if got := c.head(); got != switching {
				t.Fatalf("%q", got)
			}
			got := make([]byte, len("and more"))
			if _, err := io.ReadFull(c.r, got); err != nil || string(got) != "and more" {
				t.Errorf("%q, %v", got, err)
			}
			_ = c.CloseWrite()
			if got, reset := c.rest(); got != "" || reset {
				t.Errorf("%q, reset: %v", got, reset)
			}
		})
	}
	t.Run("that does not come", func(t *testing.T) {
		r := newRig(t, server(t, func(c *client) {
			c.head()
			c.send(switching)
			_, _ = io.Copy(c, c.r)
		}), Limits{})
		c := r.client()
		c.send(hijack)
		_ = c.CloseWrite()
		if got, reset := c.rest(); strings.Contains(got, "more") || !reset {
			t.Errorf("%q, reset: %v", got, reset)
		}
	})
}

// TestUpgradeUnderOtherRules: what becomes another protocol after the rules changed is decided by the new ones, as it would be had it
// been one before.
func TestUpgradeUnderOtherRules(t *testing.T) {
	for name, c := range map[string]struct {
		now func(flow.Context) (flow.Decision, error)
		cut bool
	}{
		"that deny it":     {denyNow, true},
		"that let it pass": {func(flow.Context) (flow.Decision, error) { return endpoint(""), nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			asked, answer := make(chan struct{}), make(chan struct{})
			addr := server(t, func(c *client) {
				c.head()
				close(asked)
				<-answer
				c.send(switching)
				_, _ = io.Copy(c, c.r)
			})
			r := newRig(t, addr, Limits{})
			cl := r.client()
			cl.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			<-asked
			r.rules.set(c.now)
			r.Redecide()
			close(answer)
			if !c.cut {
				cl.head()
				cl.send("x")
				if b, err := cl.r.ReadByte(); b != 'x' {
					t.Error(b, err)
				}
				return
			}
			if got, reset := cl.rest(); !reset {
				t.Errorf("it goes on after %q", got)
			}
			if n := r.Counters().Cut; n != 1 {
				t.Errorf("%d cut", n)
			}
		})
	}
}
