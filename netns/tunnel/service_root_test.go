package tunnel

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/marks"
	"forefend.dev/forefend/netns/wg"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/test/child"
	"forefend.dev/forefend/test/network"
	"forefend.dev/forefend/test/root"
)

// sleeperMode makes this test binary a container's process: it ends with its input.
const sleeperMode = "FOREFEND_TUNNEL_TEST_SLEEPER"

func TestMain(m *testing.M) {
	if os.Getenv(sleeperMode) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	if os.Getenv(tunneldMode) != "" {
		if err := tunneld(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const patience = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// container is a process with a network namespace of its own.
type container struct {
	pid   int
	start uint64
	end   func()
}

func newContainer(t testing.TB) container {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	return asleep(t, cmd, func() (func(), error) { return func() { _ = cmd.Wait() }, cmd.Start() })
}

// after is a container that comes into the network namespace of another.
func (c container) after(t testing.TB) container {
	t.Helper()
	ns, err := enter.Process(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	cmd := exec.Command("/proc/self/exe")
	return asleep(t, cmd, func() (func(), error) {
		gone, err := child.Begin(ns, cmd)
		return func() { <-gone }, err
	})
}

// asleep starts a process that does nothing until it is ended; start returns how to wait for that.
func asleep(t testing.TB, cmd *exec.Cmd, start func() (wait func(), err error)) container {
	t.Helper()
	cmd.Env = append(os.Environ(), sleeperMode+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	wait, err := start()
	if err != nil {
		t.Fatal(err)
	}
	ended := false
	c := container{pid: cmd.Process.Pid, end: func() {
		if !ended {
			ended = true
			_ = in.Close()
			wait()
		}
	}}
	t.Cleanup(c.end)
	if c.start, err = record.Start(c.pid); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c container) guard() api.GuardRequest {
	return api.GuardRequest{Container: "default/test", PID: c.pid, PIDStart: c.start, Cgroup: 1, CgroupLevel: 1, Port: 15001, Web: true}
}

// gateway is a WireGuard peer on loopback with nothing behind it.
type gateway struct {
	device  *device.Device
	private wg.Key
	at      netip.AddrPort
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{}
	_, _ = rand.Read(g.private[:]) // it never fails
	var err error
	if g.device, g.at, err = network.WireGuard(tuntest.NewChannelTUN().TUN(), fmt.Sprintf("private_key=%x\n", g.private[:])); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.device.Close)
	return g
}

// tunnel configures one to the gateway, whose keys are in files.
func (g *gateway) tunnel(t testing.TB, name string, slots int) Tunnel {
	t.Helper()
	dir := t.TempDir()
	r := Tunnel{Name: name, Kind: WireGuard, Class: "test", Encryption: flow.Standard, Endpoints: []string{g.at.String()}, PublicKey: g.private.Public(),
		MTU: 1420, Keepalive: time.Second, DeadAfter: 2 * time.Second}
	for n := range slots {
		var k wg.Key
		if _, err := rand.Read(k[:]); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, strconv.Itoa(n))
		if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(k[:])), 0o600); err != nil {
			t.Fatal(err)
		}
		r.Slots = append(r.Slots, Slot{KeyFile: file, Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.8.0.%d/32", n+2))}})
		public := k.Public()
		if err := g.device.IpcSet(fmt.Sprintf("public_key=%x\nallowed_ip=10.8.0.%d/32\n", public[:], n+2)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// serve runs a service until stop.
func serve(t testing.TB, dir string, tunnels ...Tunnel) (s *Service, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Open(ctx, NewPool(tunnels), dir, dir+".drained", func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// devices are those of a container, besides loopback.
func devices(t testing.TB, c container) []string {
	t.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", c.pid))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(body)) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name != "lo" {
			names = append(names, name)
		}
	}
	return names
}

func TestRootService(t *testing.T) {
	root.Test(t)
	ctx, dir := t.Context(), t.TempDir()
	g := newGateway(t)
	tunnels := []Tunnel{{Name: "direct", Kind: Direct}, g.tunnel(t, "one", 2)}
	s, stop := serve(t, dir, tunnels...)
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	again := c.guard()
	again.Cgroup = 2 // of an agent that was started anew
	if repeated, err := s.Guard(ctx, again); err != nil || repeated != guarded {
		t.Fatalf("guarded again: %+v, %v", repeated, err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	first, err := s.Attach(ctx, ask)
	if err != nil || first.Mark != marks.Tunnel(0) || first.Tunnel != "one" || first.Valid <= 0 {
		t.Fatalf("attached: %+v, %v", first, err)
	}
	mine, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Workload: "web", User: "alice", Profile: flow.Profile{Encryption: flow.Standard, Dedicated: true}})
	if err != nil || mine.Mark != marks.Tunnel(1) || mine.Device != marks.Device(1) {
		t.Fatalf("a dedicated one: %+v, %v", mine, err)
	}
	if same, err := s.Attach(ctx, ask); err != nil || same != first {
		t.Errorf("asked again: %+v, %v", same, err)
	}
	if plain, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace}); err != nil || plain.Mark != marks.Direct || plain.Device != "" {
		t.Errorf("without encryption: %+v, %v", plain, err)
	}
	if got := devices(t, c); len(got) != 2 {
		t.Errorf("devices in the namespace: %v", got)
	}
	eventually(t, "a handshake", func() bool {
		list, err := s.Tunnels(ctx)
		if err != nil {
			t.Fatal(err)
		}
		uses := list.Tunnels[1].Uses
		return len(uses) == 2 && !uses[0].Handshake.IsZero() && list.Tunnels[1].Health == string(Up)
	})
	if _, err := s.Try(ctx, api.TryRequest{Tunnel: "one"}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a trial without a free slot: %v", err)
	}

	// The process ends and another one comes: the same marks lead to the same tunnels again.
	stop()
	if got := devices(t, c); len(got) != 0 {
		t.Errorf("devices without their process: %v", got)
	}
	s, _ = serve(t, dir, tunnels...)
	if same, err := s.Attach(ctx, ask); err != nil || same != first {
		t.Errorf("after a restart: %+v, %v", same, err)
	}
	if got := devices(t, c); len(got) != 2 {
		t.Errorf("devices after a restart: %v", got)
	}

	// The container ends, and nobody says so.
	c.end()
	eventually(t, "everything of the container's released", func() bool {
		list, err := s.Tunnels(ctx)
		left, unread := os.ReadDir(dir)
		return err == nil && len(list.Guarded) == 0 && len(list.Tunnels[1].Uses) == 0 && unread == nil && len(left) == 0
	})
	if _, err := s.Attach(ctx, ask); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a namespace that is gone: %v", err)
	}
	if r, err := s.Try(ctx, api.TryRequest{Tunnel: "one"}); err != nil || r.Handshake <= 0 || r.Endpoint != g.at.String() {
		t.Errorf("a trial: %+v, %v", r, err)
	}
}

func TestRootServiceRefuses(t *testing.T) {
	root.Test(t)
	ctx, dir := t.Context(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "1.json"), []byte("{"), 0o600); err != nil { // a damaged record
		t.Fatal(err)
	}
	s, _ := serve(t, dir, Tunnel{Name: "direct", Kind: Direct})
	c := newContainer(t)
	host := c.guard()
	host.PID = os.Getpid()
	var err error
	if host.PIDStart, err = record.Start(host.PID); err != nil {
		t.Fatal(err)
	}
	other := c.guard()
	other.PIDStart++
	for _, test := range []struct {
		request api.GuardRequest
		want    error
	}{{host, errdefs.ErrFailedPrecondition}, {other, errdefs.ErrNotFound}, {api.GuardRequest{PID: c.pid}, errdefs.ErrInvalidArgument}} {
		if _, err := s.Guard(ctx, test.request); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v", test.request, err)
		}
	}
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []flow.Profile{{Encryption: flow.Standard}, {Dedicated: true}, {Endpoint: "nowhere"}} {
		if got, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Profile: p}); !errors.Is(err, errdefs.ErrUnavailable) {
			t.Errorf("%+v: %+v, %v", p, got, err)
		}
	}
	if _, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Deny: true}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a denial: %v", err)
	}
}

// TestRootFailOver: a gateway that falls silent is passed over for another one of its class, and for none that is weaker. Agents of who has it
// are told.
func TestRootFailOver(t *testing.T) {
	root.Test(t)
	ctx := t.Context()
	dead, live := newGateway(t), newGateway(t)
	s, _ := serve(t, t.TempDir(), Tunnel{Name: "direct", Kind: Direct}, dead.tunnel(t, "a", 1), live.tunnel(t, "b", 1))
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	if got, err := s.Attach(ctx, ask); err != nil || got.Tunnel != "a" {
		t.Fatalf("%+v, %v", got, err)
	}
	other, err := s.Guard(ctx, newContainer(t).guard()) // which has none
	if err != nil {
		t.Fatal(err)
	}
	numbers := make(map[uint64]uint64)
	changed := func(namespace uint64, wait time.Duration) bool {
		t.Helper()
		got, err := s.WayChanges(ctx, api.WayChangesRequest{Namespace: namespace, After: numbers[namespace], Wait: wait})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { numbers[namespace] = got.Last }()
		return got.Last != numbers[namespace]
	}
	changed(guarded.Namespace, 0)
	changed(other.Namespace, 0)
	dead.device.Close()
	if !changed(guarded.Namespace, time.Minute) {
		t.Error("nobody was told that a is down")
	}
	if got, err := s.Attach(ctx, ask); err != nil || got.Tunnel != "b" {
		t.Errorf("told that a is down: %+v, %v", got, err)
	}
	live.device.Close()
	if !changed(guarded.Namespace, time.Minute) {
		t.Error("nobody was told that b is down")
	}
	if got, err := s.Attach(ctx, ask); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("told that b is down: %+v, %v", got, err)
	}
	if changed(other.Namespace, 0) {
		t.Error("somebody was told who has neither")
	}
}

// TestRootEndpointByName: a tunnel goes on by its next endpoint, whose name is looked up, while others are served.
func TestRootEndpointByName(t *testing.T) {
	root.Test(t)
	dead := newGateway(t)
	one := dead.tunnel(t, "a", 1)
	again, at, err := network.WireGuard(tuntest.NewChannelTUN().TUN(), fmt.Sprintf("private_key=%x\n", dead.private[:]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	peers, err := dead.device.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	public := regexp.MustCompile("public_key=[0-9a-f]+").FindString(peers)
	if err := again.IpcSet(public + "\nallowed_ip=10.8.0.2/32\n"); err != nil {
		t.Fatal(err)
	}
	one.Endpoints = append(one.Endpoints, "live.test:51820")
	s, err := Open(t.Context(), NewPool([]Tunnel{one}), t.TempDir(), t.TempDir()+"/drained", func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	s.resolve = func(ctx context.Context, endpoint string) (netip.AddrPort, error) {
		if endpoint != "live.test:51820" {
			return resolve(ctx, endpoint)
		}
		close(asked)
		<-answer
		return at, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	guarded, err := s.Guard(ctx, newContainer(t).guard())
	if err != nil {
		t.Fatal(err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	if _, err := s.Attach(ctx, ask); err != nil {
		t.Fatal(err)
	}
	dead.device.Close()
	<-asked
	served := make(chan error, 1)
	go func() {
		_, err := s.Tunnels(ctx)
		served <- err
	}()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("others wait while a name is looked up")
	}
	close(answer)
	eventually(t, "a handshake with the other endpoint", func() bool {
		text, err := again.IpcGet()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(text, "last_handshake_time_sec=") && !strings.Contains(text, "last_handshake_time_sec=0")
	})
}

// attached is a service whose one tunnel a container has.
func attached(t *testing.T) *Service {
	t.Helper()
	s, _ := serve(t, t.TempDir(), newGateway(t).tunnel(t, "one", 1))
	guarded, err := s.Guard(t.Context(), newContainer(t).guard())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Attach(t.Context(), api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRootKeepalive: a tunnel that only keeps itself alive is not down: nobody answers that. It begins anew now and then, and has an answer.
func TestRootKeepalive(t *testing.T) {
	root.Test(t)
	ctx := t.Context()
	s := attached(t)
	shaken := make(map[time.Time]bool)
	eventually(t, "four handshakes", func() bool {
		list, err := s.Tunnels(ctx)
		if err != nil || len(list.Tunnels[0].Uses) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		if list.Tunnels[0].Health == string(Down) {
			t.Fatalf("after %d handshakes it is down: %s", len(shaken), list.Tunnels[0].Reason)
		}
		if at := list.Tunnels[0].Uses[0].Handshake; !at.IsZero() {
			shaken[at] = true
		}
		return len(shaken) == 4
	})
}

// TestRootRecovery: a gateway that has nothing to say but the answer to a handshake, as long as the last one's, is not down for that.
func TestRootRecovery(t *testing.T) {
	root.Test(t)
	ctx := t.Context()
	s := attached(t)
	isUp := func() bool { return s.pool.List()[0].Health == Up }
	eventually(t, "up", isUp)
	for range 3 {
		sp := s.all()[0]
		sp.mu.Lock()
		err := s.unanswered(ctx, sp, sp.uses[0])
		up := isUp() // before another look, which finds the answer
		sp.mu.Unlock()
		if !errors.Is(err, errdefs.ErrUnavailable) || up {
			t.Fatalf("without an answer it is up: %v", err)
		}
		eventually(t, "up again", isUp)
	}
}

// TestRootFlapping: of two gateways each is away again and again, and those who ask have the other one, never a weaker way, and
// nothing piles up.
func TestRootFlapping(t *testing.T) {
	root.Test(t)
	ctx := t.Context()
	gateways := map[string]*gateway{"a": newGateway(t), "b": newGateway(t)}
	s, _ := serve(t, t.TempDir(), Tunnel{Name: "direct", Kind: Direct}, gateways["a"].tunnel(t, "a", 1), gateways["b"].tunnel(t, "b", 1))
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	files := 0
	for round, name := range []string{"a", "b", "a", "b", "a", "b"} {
		if err := gateways[name].device.Down(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other gateway", func() bool {
			got, err := s.Attach(ctx, ask)
			if err == nil && got.Encryption < flow.Standard {
				t.Errorf("round %d: %+v", round, got)
			}
			return err == nil && got.Tunnel != name
		})
		if err := gateways[name].device.Up(); err != nil {
			t.Fatal(err)
		}
		s.found(name, Unknown, "") // what half a minute brings
		if n := len(devices(t, c)); n > 2 {
			t.Errorf("round %d: %d devices", round, n)
		}
		if n := openFiles(t); round == 1 { // by then both have had a device
			files = n
		} else if round > 1 && n > files+4 { // of the runtime's own
			t.Errorf("round %d: %d files, %d before", round, n, files)
		}
	}
}

// TestRootReuse: a container that comes into the network namespace of one that has just ended, and of which nobody said so, is guarded as its
// own, and stays so when that is noticed.
func TestRootReuse(t *testing.T) {
	root.Test(t)
	ctx, dir := t.Context(), t.TempDir()
	g := newGateway(t)
	s, _ := serve(t, dir, g.tunnel(t, "one", 1))
	first := newContainer(t)
	guarded, err := s.Guard(ctx, first.guard())
	if err != nil {
		t.Fatal(err)
	}
	ask := api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}
	if _, err := s.Attach(ctx, ask); err != nil {
		t.Fatal(err)
	}
	next := first.after(t)
	first.end()
	if again, err := s.Guard(ctx, next.guard()); err != nil || again != guarded {
		t.Fatalf("%+v, %v", again, err)
	}
	got, err := s.Attach(ctx, ask)
	if err != nil || got.Tunnel != "one" { // the only slot, which the first one had
		t.Fatalf("%+v, %v", got, err)
	}
	s.look(ctx)
	if same, err := s.Attach(ctx, ask); err != nil || same != got {
		t.Errorf("after a look: %+v, %v", same, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("records: %v, %v", left, err)
	}
	if n := devices(t, next); len(n) != 1 {
		t.Errorf("devices: %v", n)
	}
	next.end()
	eventually(t, "everything released", func() bool {
		left, err := os.ReadDir(dir)
		return err == nil && len(left) == 0
	})
}

// openFiles is how many descriptors this process has open.
func openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// TestRootContainers: two hundred containers that come and go leave nothing.
func TestRootContainers(t *testing.T) {
	root.Test(t)
	ctx, dir := t.Context(), t.TempDir()
	g := newGateway(t)
	s, _ := serve(t, dir, g.tunnel(t, "one", 1))
	once := func() {
		c := newContainer(t)
		guarded, err := s.Guard(ctx, c.guard())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Release(ctx, api.ReleaseRequest(guarded)); err != nil {
			t.Fatal(err)
		}
		c.end()
	}
	once()
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	for range 200 {
		once()
	}
	const threads = 8 // that package enter may have kept meanwhile
	eventually(t, "files and goroutines as before", func() bool { return openFiles(t) <= files && runtime.NumGoroutine() <= goroutines+threads })
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
	list, err := s.Tunnels(ctx)
	if err != nil || len(list.Guarded) != 0 || len(list.Tunnels[0].Uses) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
}

// FuzzRecord: what is in a record's file is data.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"container":"a","pid":1,"start":2,"namespace":3,"base":{"interceptor":{"ID":1,"Level":1}},"leases":[{"tunnel":"x","slot":1,"mark":5}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		path := filepath.Join(t.TempDir(), "3"+suffix)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := parseRecord(path)
		if err != nil {
			return
		}
		p := NewPool([]Tunnel{{Name: "x", Kind: WireGuard, Slots: make([]Slot, 2)}})
		for _, l := range r.Leases {
			_, _ = p.Restore(l.Lease) // must not end the process
		}
	})
}
