package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept"
	"forefend.dev/forefend/netns/pdp"
	"forefend.dev/forefend/netns/pdp/cache"
)

// The link's ends, the servers' ports, and how long one measurement of load takes.
const (
	egressServer, egressClient = "10.97.0.1", "10.97.0.2"
	egressPlain                = 8000 // no proxy
	egressMark                 = 0x77
	egressTime                 = 2 * time.Second
	egressSmall                = 1 << 10
	egressBulk                 = 1 << 30
	egressIdle                 = 1000
)

var egressServerAddress = netip.MustParseAddr(egressServer)

// egressProxies are what takes turns: the port that clients connect to, which nft leads to a proxy's own.
var egressProxies = []struct {
	name         string
	http, stream int // ports of the server that are led to it
}{{egressOurs, 8001, 8001}, {"haproxy", 8002, 8012}, {"nginx", 8003, 8013}}

const (
	egressOwn  = 1000 // a proxy listens this much higher
	egressOurs = "forefend"
)

// insideEgress is what runs in the namespaces.
func insideEgress(args []string) (err error) {
	if len(args) == 1 && args[0] == "server" {
		return egressServe()
	}
	if len(args) == 1 && args[0] == "proxy" {
		return egressIntercept(egressProxies[0].http + egressOwn)
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
	proxies, err := egressWorld(dir)
	if err != nil {
		return err
	}
	result := make(map[string]*turns)
	for name := range proxies {
		result[name] = new(turns)
	}
	for range rounds {
		if err := egressAdded(result); err != nil {
			return err
		}
		for _, p := range egressProxies {
			if pid := proxies[p.name]; pid != 0 {
				if err := result[p.name].round(pid, p.http, p.stream); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
		}
	}
	if result[egressOurs].Idle, err = egressIdleMemory(proxies[egressOurs]); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// egressAdded measures what each proxy adds to one client's latency, turn by turn.
func egressAdded(of map[string]*turns) error {
	ports, names := []int{egressPlain}, []string{""}
	for _, p := range egressProxies {
		if of[p.name] != nil {
			ports, names = append(ports, p.http), append(names, p.name)
		}
	}
	took, err := egressLatency(ports)
	if err != nil {
		return err
	}
	for i, name := range names[1:] {
		of[name].Added = append(of[name].Added, pairwise(took[0], took[i+1], added)...)
	}
	return nil
}

// round measures the rest of one proxy once.
func (t *turns) round(pid, port, stream int) error {
	before := cpuOf(pid)
	n, err := wrk(port, 32)
	if err != nil {
		return err
	}
	t.Request = append(t.Request, 1e6*(cpuOf(pid)-before)/n)
	before = cpuOf(pid)
	if n, err = wrk(stream, 8, "-H", "Connection: close"); err != nil {
		return err
	}
	t.Short = append(t.Short, 1e6*(cpuOf(pid)-before)/n)
	before = cpuOf(pid)
	begin := time.Now()
	out, err := exec.Command("curl", "--silent", "--show-error", "-o", "/dev/null", "-w", "%{size_download}", fmt.Sprintf("http://%s:%d/bulk", egressServer, stream)).Output()
	if err != nil || string(out) != strconv.Itoa(egressBulk) {
		return fmt.Errorf("bulk: %s bytes: %w", out, err)
	}
	t.BulkSpeed = append(t.BulkSpeed, egressBulk/1e9/time.Since(begin).Seconds())
	t.Bulk = append(t.Bulk, (cpuOf(pid)-before)/(egressBulk/1e9))
	return nil
}

var wrkLines = regexp.MustCompile(`(\d+) requests in`)

// wrk loads a port and returns the number of requests.
func wrk(port, connections int, more ...string) (requests float64, err error) {
	args := append([]string{"-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%.0fs", egressTime.Seconds())}, more...)
	out, err := exec.Command("wrk", append(args, fmt.Sprintf("http://%s:%d/", egressServer, port))...).CombinedOutput()
	m := wrkLines.FindStringSubmatch(string(out))
	if err != nil || m == nil || strings.Contains(string(out), "Non-2xx") || strings.Contains(string(out), "Socket errors") && !strings.Contains(string(out), "read 0, write 0") && len(more) == 0 {
		return 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	requests, _ = strconv.ParseFloat(m[1], 64) // as the expression says
	return requests, nil
}

// cpuOf is the CPU time of a process in seconds, by the clock that counts every nanosecond of it.
func cpuOf(pid int) float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0
	}
	return float64(ts.Nano()) / 1e9
}

// egressWorld makes link, servers and proxies, and returns the processes of those that are installed.
func egressWorld(dir string) (map[string]int, error) {
	var ports []int
	for _, p := range egressProxies {
		ports = append(ports, p.http, p.stream)
	}
	if err := egressLink(ports, "egress", "server"); err != nil {
		return nil, err
	}
	return egressStart(dir)
}

// egressLink makes the link, has the servers of a command inside at its other end, and leads what is sent to the ports to those of proxies.
func egressLink(ports []int, servers ...string) error {
	there := make(chan int)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and with this process all that is in there
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			there <- -1
			return
		}
		fd, _ := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		there <- fd
		<-there
		setUpLink("lo", "")
		setUpLink("there", egressServer)
		_, err := spawn(nil, selfPath(), append([]string{insideCommand}, servers...)...)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		there <- 0
		select {} // the servers live as long as the thread: Pdeathsig goes by it
	}()
	fd := <-there
	if fd < 0 {
		return errors.New("no network namespace")
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "here"}, PeerName: "there"}); err != nil {
		return err
	}
	peer, err := netlink.LinkByName("there")
	if err == nil {
		err = netlink.LinkSetNsFd(peer, fd)
	}
	if err != nil {
		return err
	}
	setUpLink("lo", "")
	setUpLink("here", egressClient)
	there <- 0
	<-there
	rules := "table inet bench {\nchain output {\ntype nat hook output priority -100\nmeta mark " + strconv.Itoa(egressMark) + " return\n"
	for _, port := range ports {
		rules += fmt.Sprintf("tcp dport %d redirect to :%d\n", port, port+egressOwn)
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules + "}\n}\n")
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w\n%s", err, out)
	}
	return nil
}

func selfPath() string { return "/proc/self/exe" }

func setUpLink(name, address string) {
	link, err := netlink.LinkByName(name)
	if err == nil && address != "" {
		addr, _ := netlink.ParseAddr(address + "/24")
		err = netlink.AddrAdd(link, addr)
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", name, err)
	}
}

// spawn starts a process that dies with the thread that called, which must stay.
func spawn(env []string, path string, args ...string) (int, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() { _ = cmd.Wait() }()
	return cmd.Process.Pid, nil
}

const haproxyConfig = `global
	nbthread 1
defaults
	timeout connect 10s
	timeout client 60s
	timeout server 60s
	maxconn 10000
frontend h
	mode http
	bind 127.0.0.1:9002
	default_backend h
backend h
	mode http
	server s 10.97.0.1:8000
frontend t
	mode tcp
	bind 127.0.0.1:9012
	default_backend t
backend t
	mode tcp
	server s 10.97.0.1:8000
`

const nginxConfig = `daemon off;
master_process off;
%s
error_log stderr crit;
pid %s/nginx.pid;
events { worker_connections 10000; }
http {
	access_log off;
	client_body_temp_path %[2]s; proxy_temp_path %[2]s; fastcgi_temp_path %[2]s; uwsgi_temp_path %[2]s; scgi_temp_path %[2]s;
	keepalive_requests 1000000000;
	upstream s { server 10.97.0.1:8000; keepalive 64; keepalive_requests 1000000000; }
	server { listen 127.0.0.1:9003; location / { proxy_pass http://s; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
%s
`

// startHaproxy starts haproxy, where it is installed, and notes it. The caller is locked to its thread, see spawn.
func startHaproxy(proxies map[string]int, dir, config string) error {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		return nil //nolint:nilerr // its figures are left out, and say so
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	proxies["haproxy"], err = spawn(nil, haproxy, "-db", "-f", file)
	return err
}

// egressStart starts the proxies that are installed.
func egressStart(dir string) (map[string]int, error) {
	runtime.LockOSThread() // see spawn; the caller stays on this thread to the end
	proxies := make(map[string]int)
	var err error
	if proxies[egressOurs], err = spawn([]string{"GOMAXPROCS=1"}, selfPath(), insideCommand, "egress", "proxy"); err != nil {
		return nil, err
	}
	if err := startHaproxy(proxies, dir, haproxyConfig); err != nil {
		return nil, err
	}
	if nginx, err := exec.LookPath("nginx"); err == nil {
		module, stream := filepath.Join(filepath.Dir(nginx), "../lib/nginx/modules/ngx_stream_module.so"), ""
		load := ""
		if _, err := os.Stat(module); err == nil {
			load = "load_module " + module + ";"
			stream = "stream { server { listen 127.0.0.1:9013; proxy_pass 10.97.0.1:8000; } }"
		} else {
			return nil, errors.New("nginx has no stream module: install libnginx-mod-stream")
		}
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, load, dir, stream), 0o600); err != nil {
			return nil, err
		}
		if proxies["nginx"], err = spawn(nil, nginx, "-p", dir, "-c", file, "-e", "stderr"); err != nil {
			return nil, err
		}
	}
	for _, p := range egressProxies {
		for _, port := range []int{p.http, p.stream} {
			if proxies[p.name] == 0 {
				continue
			}
			if err := egressListens(p.name, port+egressOwn); err != nil {
				return nil, err
			}
		}
	}
	return proxies, nil
}

// egressListens waits until a proxy does.
func egressListens(name string, port int) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not listen: %w", name, err)
		}
	}
}

// egressServe answers requests with a kilobyte, or with a gigabyte.
func egressServe() error {
	small, large := make([]byte, egressSmall), make([]byte, 256<<10)
	return http.ListenAndServe(fmt.Sprintf("%s:%d", egressServer, egressPlain), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/bulk" {
			_, _ = w.Write(small)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(egressBulk))
		for n := 0; n < egressBulk; n += len(large) {
			if _, err := w.Write(large); err != nil {
				return
			}
		}
	}))
}

// egressRules decides by a thousand rules, as an agent does: the answers it had before from memory.
type egressRules struct {
	set   *pdp.Set
	known *cache.Cache
}

func (r egressRules) Decide(_ context.Context, c flow.Context) (flow.Decision, error) {
	now := time.Now()
	if d := r.known.Get(&c, now); d != nil {
		return *d, nil
	}
	d := r.set.Decide(&c, pdp.Moment{Now: now})
	r.known.Put(&c, d, now)
	return d, nil
}

// Way leads all to the server's own port.
func (egressRules) Way(context.Context, flow.Context, flow.Decision) (intercept.Way, error) {
	return intercept.Way{Tunnel: "direct", Mark: egressMark}, nil
}

type toPlain struct{ intercept.Marked }

func (t toPlain) Dial(ctx context.Context, c flow.Context, d flow.Decision) (intercept.Upstream, error) {
	c.Destination = netip.AddrPortFrom(egressServerAddress, egressPlain)
	return t.Marked.Dial(ctx, c, d)
}

// Known implements intercept.Rememberer.
func (r egressRules) Known(c *flow.Context) *flow.Decision { return r.known.Get(c, time.Now()) }

func egressIntercept(port int) error {
	var rules []pdp.Rule
	for i := range 1000 {
		rules = append(rules, pdp.Rule{Name: fmt.Sprintf("r%d", i), When: fmt.Sprintf(`host == "h%d.example.com" && user == "u%d"`, i, i), Profile: flow.Profile{Encryption: flow.Standard}})
	}
	set, problems := pdp.Compile(rules, pdp.Options{})
	if len(problems) > 0 {
		return fmt.Errorf("%+v", problems[0])
	}
	decider := egressRules{set, cache.New(4096)}
	engine, err := intercept.New(decider, toPlain{intercept.Marked{Ways: decider}}, intercept.Limits{})
	if err != nil {
		return err
	}
	engine.Set(&intercept.Settings{Base: flow.Context{Workload: "bench"}, UserHeaders: []string{"x-user"}, DataHeaders: []string{"x-data-class"}})
	listeners, err := intercept.Listen(uint16(port))
	if err != nil {
		return err
	}
	failed := make(chan error)
	for _, l := range listeners {
		go func() { failed <- engine.Serve(l) }()
	}
	return <-failed
}

// egressIdleMemory is what a connection costs that was used once and waits.
func egressIdleMemory(pid int) (float64, error) {
	before, err := privateMemory(pid)
	if err != nil {
		return 0, err
	}
	for range egressIdle {
		conn, err := net.Dial("tcp", net.JoinHostPort(egressServer, strconv.Itoa(egressProxies[0].http)))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return 0, err
		}
	}
	after, err := privateMemory(pid)
	return float64(after-before) / egressIdle, err
}

// privateMemory is what of a process' memory is its own, in bytes.
func privateMemory(pid int) (n int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "Private_Dirty: %d kB", &kb); err == nil {
			n += kb << 10
		}
	}
	return n, nil
}
