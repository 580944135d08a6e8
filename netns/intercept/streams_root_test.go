package intercept

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRootStreamClients: real clients that speak HTTP/2 without TLS notice nothing but denials, in a namespace of their own.
func TestRootStreamClients(t *testing.T) {
	if !inside(t) {
		return
	}
	w := newWorld(t)
	w.rules.set(byHost)
	s := &http.Server{Handler: web("web"), Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	s.Protocols.SetUnencryptedHTTP2(true)
	l := w.listen(80)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	file := filepath.Join(t.TempDir(), "body")
	must(t, os.WriteFile(file, pattern(bodySize), 0o600))
	sum := fmt.Sprintf("%d %x\n", bodySize, sha256.Sum256(pattern(bodySize)))
	empty := fmt.Sprintf("0 %x\n", sha256.Sum256(nil))
	want := func(t *testing.T, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	t.Run("curl", func(t *testing.T) {
		curl := []string{"--silent", "--show-error", "--http2-prior-knowledge"}
		for _, name := range []string{"a.test", "b.test", "denied.test"} {
			curl = append(curl, "--resolve", name+":80:"+server4)
		}
		run := func(args ...string) string { return w.run(t, "curl", append(append([]string{}, curl...), args...)...) }
		want(t, run("-T", file, "http://a.test/sum"), "web PUT "+inside4+" "+sum)
		want(t, run("-T", file, "http://b.test/sum"), "web PUT "+other4+" "+sum)
		out := file + ".curl"
		run("-o", out, "http://a.test/bytes")
		got, err := os.ReadFile(out)
		if err != nil || string(got) != string(pattern(bodySize)) {
			t.Errorf("%d bytes arrived: %v", len(got), err)
		}
		want(t, run("-N", "http://a.test/events"), "data: 0\n\ndata: 1\n\ndata: 2\n\n")
		want(t, run("-I", "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "http://a.test/bytes"), "200 2")
		if got := run("-w", " %{http_code}", "-T", file, "http://denied.test/sum"); !strings.Contains(got, "not-there") || !strings.HasSuffix(got, " 403") {
			t.Errorf("denied: %q", got)
		}
	})
	t.Run("node", func(t *testing.T) {
		want(t, w.run(t, "node", "-e", `
const http2 = require("http2"), fs = require("fs");
const body = fs.readFileSync(process.argv[1]);
const client = http2.connect("http://`+server4+`");
const ask = (host, body) => new Promise((done, fail) => {
  const r = client.request({":method": "POST", ":path": "/sum", ":authority": host});
  let got = "";
  r.setEncoding("utf8"); r.on("data", (d) => got += d); r.on("end", () => done(got)); r.on("error", fail);
  r.end(body);
});
(async () => {
  const got = await Promise.all([ask("a.test", body), ask("b.test", body), ask("a.test"), ask("b.test")]);
  process.stdout.write(got.join(""));
  client.close();
})();
`, file), "web POST "+inside4+" "+sum+"web POST "+other4+" "+sum+"web POST "+inside4+" "+empty+"web POST "+other4+" "+empty)
	})
	t.Run("nghttp", func(t *testing.T) {
		want(t, w.run(t, "nghttp", "--data="+file, "http://"+server4+"/sum"), "web POST "+inside4+" "+sum)
		want(t, w.run(t, "nghttp", "--no-dep", "--padding=200", "http://"+server4+"/sum"), "web GET "+inside4+" "+empty)
		got := w.run(t, "nghttp", "--null-out", "--stat", "--multiply=100", "--window-bits=10", "http://"+server4+"/bytes")
		if n := strings.Count(got, " 200 "); n != 100 {
			t.Errorf("%d answers\n%s", n, got)
		}
	})
	t.Run("h2load", func(t *testing.T) {
		for _, streams := range []string{"1", "1000"} {
			got := w.run(t, "h2load", "-n20000", "-c4", "-m"+streams, "http://"+server4+"/sum")
			if !strings.Contains(got, "20000 succeeded, 0 failed, 0 errored") || !strings.Contains(got, "20000 2xx") {
				t.Errorf("%s streams at once:\n%s", streams, got)
			}
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		l := w.listen(50051)
		serveGRPC(t, l, "grpc")
		conn := grpcTo(t, func(string) (net.Conn, error) { return net.Dial("tcp", server4+":50051") })
		if got, err := call(t, conn, unaryCall, "x"); err != nil || got != "grpc x" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("WebSocket", func(t *testing.T) { w.streamedWebSocket(t) })
	for _, f := range w.Flows() {
		if !f.Verified || f.Tunnel == "" {
			t.Errorf("%+v", f)
		}
	}
	if c := w.Counters(); len(c.Malformed) > 0 || c.Cut > 0 {
		t.Errorf("%+v", c)
	}
}

// streamedWebSocket has node serve and ask for a WebSocket in a stream (RFC 8441). It is offered once the server has offered it, which
// the first request finds out; who asks a server for it that does not offer it is told so.
func (w *world) streamedWebSocket(t *testing.T) {
	w.serverIn(t, 0, "node", "-e", `
const server = require("http2").createServer({settings: {enableConnectProtocol: true}});
server.on("stream", (stream, headers) => {
  stream.respond({":status": 200});
  if (headers[":method"] === "CONNECT" && headers[":protocol"] === "websocket") stream.pipe(stream);
  else stream.end("web");
});
server.listen(82);
`)
	w.await(t, 82)
	got := w.run(t, "node", "-e", `
const http2 = require("http2"), size = 1 << 20;
const ask = (client, headers, body) => new Promise((done, fail) => {
  const r = client.request(headers, {endStream: false});
  let status = 0, got = 0;
  r.on("response", (h) => status = h[":status"]);
  r.on("data", (d) => { got += d.length; if (got === size) r.end(); });
  r.on("end", () => done(status + " " + got));
  r.on("error", fail);
  body ? r.write(body) : r.end();
});
const chat = (host) => ({":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/chat", ":authority": host});
const to = async (at) => {
  const client = http2.connect(at);
  let offered = false;
  client.on("remoteSettings", (s) => offered = s.enableConnectProtocol);
  console.log(await ask(client, {":path": "/", ":authority": "a.test"}));
  console.log(offered);
  for (const host of ["a.test", "denied.test"]) console.log(await ask(client, chat(host), Buffer.alloc(size, "x")));
  client.close();
};
(async () => { await to("http://`+server4+`:82"); await to("http://`+server4+`"); })();
`)
	if want := "200 3\ntrue\n200 1048576\n403 43\n404 19\nfalse\n501 60\n403 43\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
