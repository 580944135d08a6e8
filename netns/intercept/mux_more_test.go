package intercept

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/http2"
)

// TestStreamRates: streams keep to the limits of their decision, and share them.
func TestStreamRates(t *testing.T) {
	r := newRig(t, h2cServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, 1<<20))
	})), Limits{})
	limit := func(rate flow.Rate) {
		r.rules.set(func(flow.Context) (flow.Decision, error) {
			return flow.Decision{Profile: flow.Profile{Rates: []flow.Rate{rate}}}, nil
		})
	}
	limit(flow.Rate{Bytes: 4 << 20, Scope: flow.PerConnection, Rule: "slow"})
	c := r.h2cClient()
	all := func() time.Duration {
		begin, errs := time.Now(), make(chan error)
		for range 4 {
			go func() {
				resp, err := c.Post("http://x/", "a/b", bytes.NewReader(make([]byte, 100000)))
				if err == nil {
					var n int64
					n, err = io.Copy(io.Discard, resp.Body)
					if _ = resp.Body.Close(); n != 1<<20 {
						err = fmt.Errorf("%d bytes", n)
					}
				}
				errs <- err
			}()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		return time.Since(begin)
	}
	took := all()
	if took < 800*time.Millisecond {
		t.Errorf("4 MiB at 4 MiB a second took %v", took)
	}
	t.Logf("4 MiB at 4 MiB a second took %v", took) // a busy machine may take longer
	limit(flow.Rate{Requests: 5, Scope: flow.PerConnection, Rule: "seldom"})
	if took := all(); took < 400*time.Millisecond {
		t.Errorf("4 requests at 5 a second took %v", took)
	}
}

// TestStalledServer: a server that takes nothing holds up its own streams only.
func TestStalledServer(t *testing.T) {
	done := make(chan struct{})
	r := newRig(t, "192.0.2.1:80", Limits{})
	r.dialer.to["b"] = h2cServer(t, named("b"))
	r.dialer.to["a"] = h2cServer(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-done:
		case <-r.Context().Done():
		}
	}))
	r.rules.set(func(c flow.Context) (flow.Decision, error) { return endpoint(strings.TrimPrefix(c.Path, "/")), nil })
	c := r.h2cClient()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	for range 20 {
		go func() {
			defer func() { ended <- struct{}{} }()
			req, err := http.NewRequestWithContext(ctx, "POST", "http://x/a", bytes.NewReader(make([]byte, 4<<20)))
			if err != nil {
				return
			}
			if resp, err := c.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}
	body := strings.Repeat("x", 500000)
	for range 5 {
		ask(t, c, "POST", "http://x/b", body, 200, "b POST /b "+body)
	}
	cancel()
	close(done)
	for range 20 {
		<-ended
	}
	eventually(t, func() error {
		if held := r.held.Load(); held > clientWindow {
			return fmt.Errorf("%d bytes are held", held)
		}
		return nil
	})
}

// FuzzClientFrames: whatever a client sends, its connection ends and nothing of it is left.
func FuzzClientFrames(f *testing.F) {
	r := newRig(f, h2cServer(f, named("s")), Limits{Head: time.Second})
	r.Set(&Settings{UserHeaders: []string{"x-user"}})
	frames := http2.AppendSettings(nil)
	block := http2.AppendField(http2.AppendField([]byte{0x82, 0x86, 0x84}, ":authority", "h"), "x-user", "u")
	f.Add(http2.AppendBlock(frames, 1, nil, block, true))
	f.Add(http2.AppendReset(http2.AppendBlock(frames, 1, nil, block, false), 1, http2.Cancel))
	f.Add(http2.AppendWindowUpdate(http2.AppendBlock(frames, 1, nil, block, true), 0, 1000))
	f.Add(append(http2.AppendBlock(frames, 3, nil, block, false), "\x00\x00\x05\x00\x08\x00\x00\x00\x03\x02abcd\x00\x00\x00\x00\x01\x00\x00\x00\x03"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn, err := net.Dial("tcp", r.front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, http2.Preface) // it may be ended by now
		_, _ = conn.Write(b)
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
			t.Fatalf("the connection stays open after %q", b)
		}
	})
}
