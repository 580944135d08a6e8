package intercept

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/test/network"
)

// pattern is a body that shows where bytes were lost or moved.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 2654435761 >> 13)
	}
	return b
}

const bodySize = 3<<20 + 17

// web is what the clients ask: "/sum" tells what it was sent and by whom, "/bytes" is a long body, "/events" one that pauses.
func web(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		from, _ := netip.ParseAddrPort(r.RemoteAddr)
		_, _ = fmt.Fprintf(w, "%s %s %s %d %x\n", name, r.Method, from.Addr().Unmap(), len(body), sha256.Sum256(body))
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "bytes.bin", time.Unix(1, 0), bytes.NewReader(pattern(bodySize)))
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-time.After(200 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}

func (w *world) web(l net.Listener, name string) {
	s := &http.Server{Handler: web(name)}
	go func() { _ = s.Serve(l) }()
	w.t.Cleanup(func() { _ = s.Close() })
}

// byHost sends b.test by another way than the others, and denied.test nowhere.
func byHost(c flow.Context) (flow.Decision, error) {
	switch c.Host {
	case "b.test":
		return endpoint("b"), nil
	case "denied.test":
		return deny("not-there", "a test"), nil
	}
	return endpoint("a"), nil
}

// TestRealClients has the programs that people use speak through the engine, redirected by nft, and compares every body.
func TestRealClients(t *testing.T) {
	if !inside(t) {
		return
	}
	w := newWorld(t)
	w.rules.set(byHost)
	w.web(w.listen(80), "web")
	dir := t.TempDir()
	file := filepath.Join(dir, "body")
	must(t, os.WriteFile(file, pattern(bodySize), 0o600))
	sum := fmt.Sprintf("%d %x", bodySize, sha256.Sum256(pattern(bodySize)))
	resolve := []string{"--silent", "--show-error", "--resolve", "a.test:80:" + server4, "--resolve", "b.test:80:" + server4, "--resolve", "denied.test:80:" + server4}
	curl := func(t *testing.T, args ...string) string { return w.run(t, "curl", append(resolve, args...)...) }
	same := func(t *testing.T, path string, from, to int) {
		t.Helper()
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, pattern(bodySize)[from:to]) {
			t.Errorf("%d bytes arrived, want %d: %v", len(got), to-from, err)
		}
	}
	want := func(t *testing.T, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}

	t.Run("curl", func(t *testing.T) {
		want(t, curl(t, "-T", file, "-H", "Expect: 100-continue", "http://a.test/sum"), "web PUT "+inside4+" "+sum+"\n")
		want(t, curl(t, "-X", "POST", "-T", file, "-H", "Transfer-Encoding: chunked", "http://a.test/sum"), "web POST "+inside4+" "+sum+"\n")
		want(t, curl(t, "--http1.0", "-T", file, "http://a.test/sum"), "web PUT "+inside4+" "+sum+"\n")
		out := filepath.Join(dir, "curl")
		curl(t, "-o", out, "http://a.test/bytes")
		same(t, out, 0, bodySize)
		curl(t, "-r", "1000-2000999", "-o", out, "http://a.test/bytes")
		same(t, out, 1000, 2001000)
		want(t, curl(t, "--http1.0", "http://["+server6+"]/sum")[:len("web GET "+inside6)], "web GET "+inside6)
		want(t, curl(t, "-I", "-o", "/dev/null", "-w", "%{http_code} %header{content-length}", "http://a.test/bytes"), fmt.Sprintf("200 %d", bodySize))
		want(t, curl(t, "-N", "http://a.test/events"), "data: 0\n\ndata: 1\n\ndata: 2\n\n")
		if got := curl(t, "-w", " %{http_code}", "-T", file, "http://denied.test/sum"); !strings.Contains(got, "not-there") || !strings.HasSuffix(got, " 403") {
			t.Errorf("denied: %q", got)
		}
	})
	t.Run("two hosts over one connection", func(t *testing.T) {
		const ask = "http://" + server4 + "/sum"
		got := w.run(t, "curl", "--silent", "-w", "%{num_connects}\n", "-H", "Host: a.test", ask, "--next", "--silent", "-w", "%{num_connects}\n", "-H", "Host: b.test", ask,
			"--next", "--silent", "-w", "%{num_connects}\n", "-H", "Host: a.test", ask)
		empty := fmt.Sprintf(" 0 %x\n", sha256.Sum256(nil))
		want(t, got, "web GET "+inside4+empty+"1\nweb GET "+other4+empty+"0\nweb GET "+inside4+empty+"0\n")
	})
	t.Run("wget", func(t *testing.T) {
		out := filepath.Join(dir, "wget")
		w.run(t, "wget", "-q", "-O", out, "http://"+server4+"/bytes")
		same(t, out, 0, bodySize)
		want(t, w.run(t, "wget", "-q", "-O", "-", "--post-file", file, "http://"+server4+"/sum"), "web POST "+inside4+" "+sum+"\n")
	})
	t.Run("python", func(t *testing.T) {
		want(t, w.run(t, "python3", "-c", `
import sys, urllib.request, http.client
body = open(sys.argv[1], "rb").read()
print(urllib.request.urlopen("http://`+server4+`/sum", body).read().decode(), end="")
c = http.client.HTTPConnection("`+server4+`")
for i in range(3):
    c.request("POST", "/sum", iter([body[:100000], body[100000:]]), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    print(c.getresponse().read().decode(), end="")
`, file), strings.Repeat("web POST "+inside4+" "+sum+"\n", 4))
	})
	t.Run("node", func(t *testing.T) {
		want(t, w.run(t, "node", "-e", `
const body = require("fs").readFileSync(process.argv[1]);
(async () => { for (let i = 0; i < 3; i++) {
  const r = await fetch("http://`+server4+`/sum", {method: "POST", body});
  process.stdout.write(await r.text());
} })();
`, file), strings.Repeat("web POST "+inside4+" "+sum+"\n", 3))
	})
	t.Run("Go", func(t *testing.T) { goClient(t, sum) })
	t.Run("redis-cli", func(t *testing.T) {
		redis(w.listen(6379))
		want(t, w.run(t, "redis-cli", "-h", server4, "PING"), "PONG\n")
		want(t, w.run(t, "redis-cli", "-h", server4, "ECHO", strings.Repeat("x", 100000)), strings.Repeat("x", 100000)+"\n")
	})
	t.Run("SMTP", func(t *testing.T) {
		smtp(w.listen(25))
		smtp(w.listen(2525))
		for _, port := range []string{"25", "2525", "2525"} {
			want(t, w.run(t, "python3", "-c", "import smtplib\ns = smtplib.SMTP('"+server4+"', "+port+", timeout=20)\nprint(s.helo('x'), s.quit())"), "(250, b'hello') (221, b'bye')\n")
		}
	})
	t.Run("TLS", func(t *testing.T) { w.tls(t, dir, sum) })
	t.Run("WebSocket", func(t *testing.T) {
		w.websocket(w.listen(8080))
		websocketClient(t)
	})
	t.Run("the interceptor's own port", func(t *testing.T) {
		listener := w.listeners[0].Addr().String()
		if conn, err := net.Dial("tcp", listener); err == nil { // the reset may come before dialling is over
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, sent := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if b, err := io.ReadAll(conn); sent == nil && err == nil || len(b) > 0 { // a reset is told once, to who comes first
				t.Errorf("%q, %v, %v", b, sent, err)
			}
			_ = conn.Close()
		}
		eventually(t, func() error {
			if n := w.Counters().Direct; n != 1 {
				return fmt.Errorf("%d direct", n)
			}
			return nil
		})
	})
	for _, f := range w.Flows() {
		if !f.Verified || f.Tunnel == "" {
			t.Errorf("%+v", f)
		}
	}
	if c := w.Counters(); len(c.Malformed) > 0 || c.MalformedHello > 0 {
		t.Errorf("%+v", c)
	}
}

// goClient uploads and downloads over a pool of connections.
func goClient(t *testing.T, sum string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: patience}
	defer client.CloseIdleConnections()
	results := make(chan error, 20)
	for i := range cap(results) {
		go func() {
			resp, err := client.Post("http://"+server4+"/sum", "x/y", bytes.NewReader(pattern(bodySize)))
			if err != nil {
				results <- err
				return
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil && !strings.HasSuffix(string(b), sum+"\n") {
				err = fmt.Errorf("request %d: %q", i, b)
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// redis answers PING and ECHO.
func redis(l net.Listener) {
	accept(l, func(r *bufio.Reader, c net.Conn) {
		for {
			var n int
			if _, err := fmt.Fscanf(r, "*%d\r\n", &n); err != nil {
				return
			}
			var words []string
			for range n {
				var size int
				if _, err := fmt.Fscanf(r, "$%d\r\n", &size); err != nil {
					return
				}
				word := make([]byte, size+2)
				if _, err := io.ReadFull(r, word); err != nil {
					return
				}
				words = append(words, string(word[:size]))
			}
			switch {
			case strings.EqualFold(words[0], "ping"):
				_, _ = io.WriteString(c, "+PONG\r\n")
			case strings.EqualFold(words[0], "echo"):
				_, _ = fmt.Fprintf(c, "$%d\r\n%s\r\n", len(words[1]), words[1])
			default:
				_, _ = io.WriteString(c, "-ERR\r\n")
			}
		}
	})
}

// smtp speaks first.
func smtp(l net.Listener) {
	accept(l, func(r *bufio.Reader, c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(line, "quit") || strings.HasPrefix(line, "QUIT") {
				_, _ = io.WriteString(c, "221 bye\r\n")
				return
			}
			_, _ = io.WriteString(c, "250 hello\r\n")
		}
	})
}

func accept(l net.Listener, serve func(*bufio.Reader, net.Conn)) {
	go network.Serve(l, func(c net.Conn) { serve(bufio.NewReader(c), c) })
}

// tls has curl come by name, in both versions, to one that is let through and one that is not.
func (w *world) tls(t *testing.T, dir, sum string) {
	cert, _ := certificate(t, "a.test", "denied.test")
	ca := filepath.Join(dir, "ca.pem")
	must(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}), 0o600))
	w.web(tls.NewListener(w.listen(443), &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}), "tls")
	for _, version := range []string{"1.2", "1.3"} {
		args := []string{"--silent", "--cacert", ca, "--tls-max", version, "--tlsv" + version, "--http1.1", "--resolve", "a.test:443:" + server4, "--resolve", "denied.test:443:" + server4}
		got := w.run(t, "curl", append(args, "-T", filepath.Join(dir, "body"), "https://a.test/sum")...)
		if want := "tls PUT " + inside4 + " " + sum + "\n"; got != want {
			t.Errorf("TLS %s: %q, want %q", version, got, want)
		}
		got = w.run(t, "sh", "-c", `curl "$@"; echo $?`, "sh", args[0], args[1], args[2], args[3], args[4], args[5], args[6], args[7], args[8], args[9], args[10], "https://denied.test/sum")
		if got != "35\n" { // CURLE_SSL_CONNECT_ERROR
			t.Errorf("TLS %s: a denied name: %q", version, got)
		}
	}
}

// websocket echoes what comes after the upgrade.
func (w *world) websocket(l net.Listener) {
	accept(l, func(r *bufio.Reader, c net.Conn) {
		req, err := http.ReadRequest(r)
		if err != nil || req.Header.Get("Upgrade") != "websocket" {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.Copy(c, r)
	})
}

func websocketClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", server4+":8080")
	must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, "GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	must(t, err)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	if resp.StatusCode != 101 {
		t.Fatal(resp.Status)
	}
	frames := pattern(1 << 20)
	go func() { _, _ = conn.Write(frames) }()
	got := make([]byte, len(frames))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, frames) {
		t.Errorf("frames differ: %v", err)
	}
}
