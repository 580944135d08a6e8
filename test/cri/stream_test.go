package cri

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// upgrade opens a streaming session at the URL that CRI returned, in the older of the two protocols that kubectl and
// crictl use; critest covers the other.
func (n *node) upgrade(t *testing.T, address, protocol string) httpstream.Connection {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := n.connect(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	req, err := http.NewRequest(http.MethodPost, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	req.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	buffered := bufio.NewReader(conn)
	resp, err := http.ReadResponse(buffered, req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("upgrade: %s: %s", resp.Status, body)
	}
	c, err := spdy.NewClientConnection(bufferedConn{conn, buffered})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bufferedConn reads what a buffered reader already took from the connection.
type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// session is one exec or attach.
type session struct {
	stdin, resize  httpstream.Stream
	stdout, stderr *buffer
	status         *buffer // of the error stream: how it ended, in JSON
	streams        sync.WaitGroup
}

// buffer collects a stream.
type buffer struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (n *node) session(t *testing.T, address string, stdin, stderr, tty bool) *session {
	t.Helper()
	conn := n.upgrade(t, address, "v4.channel.k8s.io")
	s := &session{stdout: new(buffer), stderr: new(buffer), status: new(buffer)}
	open := func(kind string, into *buffer) httpstream.Stream {
		stream, err := conn.CreateStream(http.Header{"streamType": {kind}})
		if err != nil {
			t.Fatal(err)
		}
		if into != nil {
			s.streams.Go(func() { _, _ = io.Copy(into, stream) }) // ends with the stream or the connection
		}
		return stream
	}
	_ = open("error", s.status).Close() // we never write to it
	if stdin {
		s.stdin = open("stdin", nil)
	}
	open("stdout", s.stdout)
	if stderr && !tty {
		open("stderr", s.stderr)
	}
	if tty {
		s.resize = open("resize", nil)
	}
	return s
}

// end waits until the server has closed all streams, and returns what came.
func (s *session) end(t *testing.T) string {
	t.Helper()
	done := make(chan struct{})
	go func() { s.streams.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(callTimeout):
		t.Fatalf("the session does not end; so far %q %q", s.stdout, s.stderr)
	}
	var status struct {
		Status  string
		Message string
	}
	if err := json.Unmarshal([]byte(s.status.String()), &status); err != nil {
		t.Fatalf("status %q: %v", s.status, err)
	}
	return fmt.Sprintf("stdout %q stderr %q %s %s\n", s.stdout, s.stderr, status.Status, status.Message)
}

func (c *container) execSession(t *testing.T, stdin, tty bool, args ...string) *session {
	t.Helper()
	resp, err := c.runtime.Exec(within(t), &cri.ExecRequest{
		ContainerId: c.id, Cmd: args, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
	if err != nil {
		t.Fatal(err)
	}
	return c.session(t, resp.Url, stdin, true, tty)
}

func (c *container) attach(t *testing.T, stdin, tty bool) *session {
	t.Helper()
	resp, err := c.runtime.Attach(within(t), &cri.AttachRequest{ContainerId: c.id, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
	if err != nil {
		t.Fatal(err)
	}
	return c.session(t, resp.Url, stdin, true, tty)
}

func (s *session) write(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.stdin, text); err != nil {
		t.Fatal(err)
	}
}

// TestStreaming drives exec, attach and port-forward through the streaming server.
func TestStreaming(t *testing.T) {
	n := newNode(t)
	pods := n.pods(t)

	t.Run("exec", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, sleeper())
			out := c.execSession(t, false, false, "sh", "-c", "echo out; echo err >&2; exit 5").end(t)
			if !strings.HasPrefix(out, `stdout "out\n" stderr "err\n" Failure`) {
				t.Errorf("got %s", out)
			}
			s := c.execSession(t, true, false, "sh", "-c", "wc -c; echo done")
			s.write(t, strings.Repeat("0123456789", 10000))
			_ = s.stdin.Close()
			out += s.end(t)
			return out
		})
	})

	t.Run("exec tty", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, sleeper())
			s := c.execSession(t, true, true, "sh", "-c", "trap 'stty size; exit 0' WINCH; stty size; tty; echo ready; while :; do sleep 0.05; done")
			eventually(t, "the shell is ready", func() bool { return strings.Contains(s.stdout.String(), "ready") })
			if err := json.NewEncoder(s.resize).Encode(map[string]int{"Width": 100, "Height": 40}); err != nil {
				t.Fatal(err)
			}
			out := s.end(t)
			if !strings.Contains(out, "40 100") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("attach", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := pods[handler]
			c := p.start(t, shell("read a; echo got $a; echo err >&2; read b; exit 4"), func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
			s := c.attach(t, true, false)
			s.write(t, "hello\n")
			eventually(t, "the answer", func() bool { return strings.Contains(s.stdout.String(), "got hello") })
			_ = s.stdin.Close()
			// Not the log: which of two streams comes first in it is nobody's promise.
			out := s.end(t) + fmt.Sprintf("exit %d\n", c.ended(t).ExitCode)
			if !strings.HasSuffix(out, "exit 4\n") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("attach twice", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := pods[handler]
			c := p.start(t, shell("stty -echo; echo ready; while read a; do echo got $a; test $a = end && exit 0; done"),
				func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true })
			c.prints(t, "ready")
			first := c.attach(t, true, true)
			first.write(t, "one\n")
			eventually(t, "the answer", func() bool { return strings.Contains(first.stdout.String(), "got one") })
			second := c.attach(t, true, true)
			second.write(t, "end\n")
			out := second.end(t) + first.end(t)
			return out + c.end(t)
		})
	})

	t.Run("port forward", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := pods[handler]
			p.start(t, probe("serve", "-addr", "127.0.0.1:8080")).prints(t, "ready")
			resp, err := n.runtime.PortForward(within(t), &cri.PortForwardRequest{PodSandboxId: p.id, Port: []int32{8080}})
			if err != nil {
				t.Fatal(err)
			}
			conn := n.upgrade(t, resp.Url, "portforward.k8s.io")
			var out strings.Builder
			for id, port := range []int{8080, 8080, 9} {
				out.WriteString(forward(t, conn, id, port))
			}
			if !strings.HasPrefix(out.String(), "8080: 200 OK ok\n<nil>\n") {
				t.Errorf("got %s", out.String())
			}
			return p.anonymous(out.String())
		})
	})
}

// forward makes one HTTP request through a forwarded port.
func forward(t *testing.T, conn httpstream.Connection, id, port int) string {
	t.Helper()
	header := make(http.Header)
	header.Set("port", strconv.Itoa(port))
	header.Set("requestID", strconv.Itoa(id))
	header.Set("streamType", "error")
	failure, err := conn.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	_ = failure.Close()
	header.Set("streamType", "data")
	data, err := conn.CreateStream(header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(data, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = data.Close()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.ReadResponse(bufio.NewReader(data), nil)
		if err != nil {
			return // the other stream says why; this one may never end
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprintf("%s %s%v", resp.Status, body, err)
	}()
	go func() {
		if why, _ := io.ReadAll(failure); len(why) > 0 {
			answer <- string(why)
		}
	}()
	select {
	case a := <-answer:
		return fmt.Sprintf("%d: %s\n", port, a)
	case <-time.After(callTimeout):
		t.Fatalf("no answer from port %d", port)
		return ""
	}
}
