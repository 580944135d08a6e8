package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// streamProxies are what takes turns: the port that clients connect to, which nft leads to a proxy's own.
var streamProxies = []struct {
	name string
	port int
}{{egressOurs, 8004}, {"haproxy", 8005}, {"ReverseProxy", 8006}}

// A client's load: connections, and streams of each at once.
const streamClients, streamsAtOnce = 8, 32

const streamHaproxy = `global
	nbthread 1
defaults
	mode http
	timeout connect 10s
	timeout client 60s
	timeout server 60s
	maxconn 10000
frontend h
	bind 127.0.0.1:9005 proto h2
	default_backend h
backend h
	http-reuse always
	server s 10.97.0.1:8000 proto h2
`

// insideStreams is what runs in the namespaces.
func insideStreams(args []string) (err error) {
	switch args[0] {
	case "server":
		return streamServe()
	case "library":
		return streamLibrary()
	case "proxy":
		return egressIntercept(streamProxies[0].port + egressOwn)
	case "reverse":
		return streamReverse()
	}
	rounds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "forefend-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	proxies, err := streamWorld(dir, args[1])
	if err != nil {
		return err
	}
	message := filepath.Join(dir, "message") // of gRPC: a flag, its length, and a hundred bytes
	if err := os.WriteFile(message, append(binary.BigEndian.AppendUint32([]byte{0}, 100), make([]byte, 100)...), 0o600); err != nil {
		return err
	}
	result := make(map[string]*streamTurns)
	for round := range rounds + 1 { // the first one is not counted
		for _, p := range streamProxies {
			pid := proxies[p.name]
			if pid == 0 {
				continue
			}
			t := result[p.name]
			if t == nil {
				t = new(streamTurns)
				result[p.name] = t
			}
			plain, err := streamCost(pid, p.port, "/")
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if round > 0 {
				t.Rate = append(t.Rate, 1e-3/plain)
			}
			if p.name == "ReverseProxy" { // no figure compares its calls, and at times none is answered
				continue
			}
			call, err := streamCost(pid, p.port, "/shop.Orders/GetOrder", "-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "grpc-timeout: 9S", "-H", "x-user: u500")
			if err != nil {
				return fmt.Errorf("%s, gRPC: %w", p.name, err)
			}
			if round > 0 {
				t.GRPC = append(t.GRPC, 1e6*call)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

var h2loadLines = regexp.MustCompile(`requests: (\d+) total.*, (\d+) succeeded, (\d+) failed, (\d+) errored`)

// streamCost loads a port for a while and returns the CPU time of the proxy for each request, in seconds.
func streamCost(pid, port int, path string, more ...string) (float64, error) {
	before := cpuOf(pid)
	args := append([]string{"-t1", fmt.Sprint("-c", streamClients), fmt.Sprint("-m", streamsAtOnce), fmt.Sprintf("-D%.0f", egressTime.Seconds())}, more...)
	out, err := exec.Command("h2load", append(args, fmt.Sprintf("http://%s:%d%s", egressServer, port, path))...).CombinedOutput()
	m := h2loadLines.FindStringSubmatch(string(out))
	if err != nil || m == nil {
		return 0, fmt.Errorf("h2load: %w\n%s", err, out)
	}
	n, _ := strconv.ParseFloat(m[2], 64) // as the expression says
	if m[3] != "0" || n < 1000 || !strings.Contains(string(out), " 2xx, 0 3xx, 0 4xx, 0 5xx") {
		return 0, fmt.Errorf("h2load: not all went well\n%s", out)
	}
	return (cpuOf(pid) - before) / n, nil
}

// streamWorld makes link, server and proxies, and returns the processes of those that are installed.
func streamWorld(dir, server string) (map[string]int, error) {
	var ports []int
	for _, p := range streamProxies {
		ports = append(ports, p.port)
	}
	if err := egressLink(ports, "streams", server); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // see spawn; the caller stays on this thread to the end
	proxies := make(map[string]int)
	var err error
	for name, command := range map[string]string{egressOurs: "proxy", "ReverseProxy": "reverse"} {
		if proxies[name], err = spawn([]string{"GOMAXPROCS=1"}, selfPath(), insideCommand, "streams", command); err != nil {
			return nil, err
		}
	}
	if err := startHaproxy(proxies, dir, streamHaproxy); err != nil {
		return nil, err
	}
	for _, p := range streamProxies {
		if proxies[p.name] != 0 {
			if err := egressListens(p.name, p.port+egressOwn); err != nil {
				return nil, err
			}
		}
	}
	return proxies, nil
}

// streamLibrary is a server of Go's library, which answers as streamServe does. It writes nearly each frame as it comes, as servers do
// that have a goroutine or a thread for each request.
func streamLibrary() error {
	s := &http.Server{Addr: fmt.Sprintf("%s:%d", egressServer, egressPlain), Protocols: h2c(), ReadHeaderTimeout: time.Minute}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("content-type") != "application/grpc" {
			_, _ = w.Write(streamBody) // a client that is gone needs no answer
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // likewise
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		_, _ = w.Write(streamReply)
		w.Header().Set("grpc-status", "0")
	})
	return s.ListenAndServe()
}

// h2c are the protocols of who speaks HTTP/2 without TLS.
func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// streamReverse is a proxy of Go's library.
func streamReverse() error {
	transport := &http.Transport{Protocols: h2c()}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("%s:%d", egressServer, egressPlain)})
	}}
	s := &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", streamProxies[2].port+egressOwn), Protocols: h2c(), ReadHeaderTimeout: time.Minute, Handler: proxy}
	proxy.ErrorLog = log.New(io.Discard, "", 0) // clients that have measured enough go
	return s.ListenAndServe()
}
