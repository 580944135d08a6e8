package intercept

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// An upload of more than 4 GiB passes whole, and is counted whole.
func TestUploadBeyond4GiB(t *testing.T) {
	const size = 4<<30 + 12345
	got := make(chan int64, 1)
	flows := make(chan []Flow, 1)
	var r *rig
	r = newRig(t, server(t, func(c *client) {
		_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
		req, err := http.ReadRequest(c.r)
		if err != nil {
			t.Error(err)
			return
		}
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{req.Body}, make([]byte, 1<<20))
		if err != nil {
			t.Error(err)
		}
		flows <- r.Flows()
		got <- n
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}), Limits{})
	c := r.client()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	c.send(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", int64(size)))
	if n, err := io.CopyBuffer(struct{ io.Writer }{c.TCPConn}, io.LimitReader(zeros{}, size), make([]byte, 1<<20)); err != nil || n != size {
		t.Fatalf("%d bytes sent: %v", n, err)
	}
	if resp, body := c.response("PUT"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if n := <-got; n != size {
		t.Errorf("%d bytes arrived, %d were sent", n, int64(size))
	}
	if f := <-flows; len(f) != 1 || f[0].Sent < size-1<<20 { // the last piece is counted once it is through
		t.Errorf("flows: %+v", f)
	}
}
