package intercept

import (
	"bytes"
	"context"
	"testing"

	"forefend.dev/forefend/netns/flow"
)

// settled is a Decider that knows the answer to all questions.
type settled struct{ d *flow.Decision }

func (s settled) Decide(context.Context, flow.Context) (flow.Decision, error) { return *s.d, nil }
func (s settled) Known(*flow.Context) *flow.Decision                          { return s.d }

// TestKeptTakesNoMemory: a request on a connection that is there, of which the decision is known, allocates nothing on its way and back.
func TestKeptTakesNoMemory(t *testing.T) {
	if raced {
		t.Skip("under the race detector pools forget what they hold")
	}
	question, answer := []byte("GET /a HTTP/1.1\r\nHost: x\r\nX-User: u\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	at := server(t, func(c *client) {
		for b := make([]byte, 4<<10); ; {
			n, err := c.Read(b)
			if err != nil || !bytes.Equal(b[:n], question) {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	r := newRig(t, at, Limits{})
	d := endpoint("")
	r.decider = restrict(r.Engine, settled{&d})
	r.Set(&Settings{UserHeaders: []string{"x-user"}})
	c := r.client()
	got := make([]byte, 4<<10)
	ask := func() {
		if _, err := c.Write(question); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], answer) {
			t.Fatalf("%q, %v", got[:n], err)
		}
	}
	ask()
	if n := testing.AllocsPerRun(200, ask); n > 0 {
		t.Errorf("a request allocates %v times", n)
	}
}
