package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/calls"
	"forefend.dev/forefend/agent/channel"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/test/root"
)

// TestMain lets the test binary be an agent that misbehaves: its name says how.
func TestMain(m *testing.M) {
	if how, ok := strings.CutPrefix(filepath.Base(os.Args[0]), "hostile-"); ok {
		hostile(how)
		return
	}
	code := m.Run()
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// hostile is a taken-over agent: it has the key.
func hostile(how string) {
	var key [channel.KeySize]byte
	if _, err := unix.Pread(api.KeyFD, key[:], 0); err != nil {
		return
	}
	raw := os.NewFile(api.ChannelFD, "channel")
	hello := append([]byte(api.HelloMagic), api.Version)
	var out recorder
	conn := channel.New(&out, channel.Config{Key: key, End: channel.Agent})
	say := func(b []byte) {
		out.Reset()
		_, _ = conn.Write(b)
		_, _ = raw.Write(out.Bytes())
	}
	methods := map[string]calls.Method{
		"Handshake": func(context.Context, []byte) ([]byte, error) { return json.Marshal(api.HandshakeResponse{Version: 1}) },
		"Events":    func(context.Context, []byte) ([]byte, error) { return []byte("{}"), nil },
	}
	serve := func() {
		_ = calls.Serve(context.Background(), channel.New(raw, channel.Config{Key: key, End: channel.Agent}), api.ServiceName, methods)
	}
	switch how {
	case "silent":
		time.Sleep(time.Minute)
	case "greets-wrong":
		hello[len(hello)-1]++
		say(hello)
		time.Sleep(time.Minute)
	case "garbage":
		_, _ = raw.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		time.Sleep(time.Minute)
	case "replay":
		say(hello)
		_, _ = raw.Write(out.Bytes())
		time.Sleep(time.Minute)
	case "flood":
		say(hello)
		for {
			say(make([]byte, channel.MaxPayload))
		}
	case "many-events":
		methods["Events"] = func(context.Context, []byte) ([]byte, error) {
			return json.Marshal(api.EventsResponse{Events: make([]api.Event, api.MaxEvents+1)})
		}
		both(raw, key, hello, methods)
	case "deep":
		methods["Events"] = func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte("["), 500_000), nil }
		both(raw, key, hello, methods)
	case "hit-and-run":
		methods["Events"] = func(context.Context, []byte) ([]byte, error) {
			_, _ = raw.Write(bytes.Repeat([]byte("garbage "), 100))
			os.Exit(0)
			return nil, nil
		}
		both(raw, key, hello, methods)
	case "busy": // each answer at once, without an event: it must not keep the shim busy
		both(raw, key, hello, methods)
	case "deaf":
		say(hello)
		time.Sleep(time.Minute)
	default:
		serve()
	}
}

// both greets and serves on one channel.
func both(raw *os.File, key [channel.KeySize]byte, hello []byte, methods map[string]calls.Method) {
	conn := channel.New(raw, channel.Config{Key: key, End: channel.Agent})
	_, _ = conn.Write(hello)
	_ = calls.Serve(context.Background(), conn, api.ServiceName, methods)
}

// recorder keeps what a channel writes.
type recorder struct{ bytes.Buffer }

func (*recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (*recorder) Close() error                     { return nil }
func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }

// fixture is a process in namespaces of its own, and a Host that injects into them.
type fixture struct {
	host   *Host
	target Target

	mu      sync.Mutex
	changes []Change
	events  []api.Event
}

func newFixture(t testing.TB, binary string) *fixture {
	t.Helper()
	root.Test(t)
	box := exec.Command("sleep", "1000")
	box.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	runtime.LockOSThread() // the signal comes when the thread ends, not the process
	if err := box.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = box.Process.Kill()
		_ = box.Wait()
		runtime.UnlockOSThread()
	})
	start, err := record.Start(box.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{}
	f.host = New(Config{
		Binary: binary, Empty: filepath.Join(t.TempDir(), "empty"),
		Start: func(cmd *exec.Cmd) (func() error, error) { return cmd.Wait, cmd.Start() },
		Join:  func(string, int) error { return nil },
		Leave: func(string) error { return nil },
	})
	f.target = Target{
		Name: t.Name(), PID: box.Process.Pid, PIDStart: start, Cgroup: "forefend/agent/test", Notify: "test",
		Changed: func(c Change) { f.mu.Lock(); f.changes = append(f.changes, c); f.mu.Unlock() },
		Event:   func(e api.Event) { f.mu.Lock(); f.events = append(f.events, e); f.mu.Unlock() },
	}
	return f
}

// builtIn is where the agent was built; "": nowhere.
var builtIn string

// built is the agent, built once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ffagent")
	if err != nil {
		return "", err
	}
	builtIn = dir
	if err := os.Chmod(dir, 0o755); err != nil { // the agent's user has to get there
		return "", err
	}
	path := filepath.Join(dir, "forefend-agent")
	cmd := exec.Command("go", "build", "-o", path, "forefend.dev/forefend/cmd/forefend-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

func genuine(t testing.TB) *fixture {
	t.Helper()
	root.Test(t)
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return newFixture(t, path)
}

// fake is a fixture whose agent misbehaves.
func fake(t *testing.T, how string) *fixture {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hostile-"+how)
	if err := os.Link(self, path); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != "/" && dir != "/tmp"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // the agent's user has to get there
			t.Fatal(err)
		}
	}
	return newFixture(t, path)
}

func (f *fixture) inject(t testing.TB) *Agent {
	t.Helper()
	a, err := f.host.Inject(t.Context(), f.target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestRootInject injects a genuine agent and asks it all there is to ask.
func TestRootInject(t *testing.T) {
	f := genuine(t)
	a := f.inject(t)
	shake, err := a.Handshake()
	if err != nil {
		t.Fatal(err)
	}
	if shake.Dumpable || !shake.NoNewPrivs || !shake.Seccomp || !slices.Equal(shake.Capabilities, []string{"CAP_NET_ADMIN"}) ||
		uint32(shake.UID) < firstUID || !slices.Equal(shake.Features, []string{"sock_diag", "notify"}) {
		t.Errorf("%+v", shake)
	}
	health, err := a.Health(t.Context())
	if err != nil || health.Files > 12 || health.Goroutines > 12 {
		t.Errorf("%+v, %v", health, err)
	}
	if dump, err := a.Dump(t.Context(), api.DumpRequest{}); err != nil || len(dump.Listening)+len(dump.Connections) != 0 {
		t.Errorf("an empty namespace has %+v: %v", dump, err)
	}
	a.Close()
	if pid, _ := a.Process(); pid != 0 {
		t.Errorf("process %d after Close", pid)
	}
}

// TestRootFirstByte says how long an agent takes to its handshake; the benchmark has the figures.
func BenchmarkRootInject(b *testing.B) {
	f := genuine(b)
	for b.Loop() {
		a, err := f.host.Inject(b.Context(), f.target)
		if err != nil {
			b.Fatal(err)
		}
		a.Close()
	}
}

// TestRootReplaced kills the agent again and again: one follows the other within 100 ms, and nothing is left of any.
func TestRootReplaced(t *testing.T) {
	f := genuine(t)
	a := f.inject(t)
	files, routines := openFiles(t), runtime.NumGoroutine()
	const kills = 15
	for range kills {
		pid, _ := a.Process()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another agent", func() bool { now, _ := a.Process(); return now != 0 && now != pid })
	}
	var outages []time.Duration
	f.mu.Lock()
	for _, c := range f.changes {
		if c.Restart > 0 && c.PID != 0 {
			outages = append(outages, c.Outage)
		}
	}
	f.mu.Unlock()
	slices.Sort(outages)
	if len(outages) == 0 {
		t.Fatal("no replacement was reported")
	}
	t.Logf("replaced %d times, within %v at the median, %v at most", len(outages), outages[len(outages)/2], outages[len(outages)-1])
	if outages[0] > 100*time.Millisecond { // what the machine is busy with beside this comes on top of the others
		t.Errorf("the shortest outage is %v", outages[0])
	}
	eventually(t, "the descriptors of the replaced", func() bool { return openFiles(t) <= files+1 })
	eventually(t, "the goroutines of the replaced", func() bool { return runtime.NumGoroutine() <= routines+1 })
}

func openFiles(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// TestRootStopped closes an agent that is stopped.
func TestRootStopped(t *testing.T) {
	a := genuine(t).inject(t)
	pid, _ := a.Process()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a.Close()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestRootGone injects into a process that has ended.
func TestRootGone(t *testing.T) {
	f := genuine(t)
	f.target.PIDStart++
	if _, err := f.host.Inject(t.Context(), f.target); !errors.Is(err, errGone) {
		t.Error(err)
	}
}

// TestRootNotify sends the application's messages from inside of the namespace, and more than is taken.
func TestRootNotify(t *testing.T) {
	f := genuine(t)
	f.inject(t)
	send := func(messages ...string) {
		t.Helper()
		ns, err := enter.Process(f.target.PID)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		err = ns.Do(func() error {
			s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(s)
			for _, m := range messages {
				if err := unix.Sendto(s, []byte(m), 0, &unix.SockaddrUnix{Name: "@test"}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	has := func(kind string, ok func(api.Event) bool) func() bool {
		return func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return slices.ContainsFunc(f.events, func(e api.Event) bool { return e.Kind == kind && ok(e) })
		}
	}
	send("READY=1\nSTATUS=serving", "FOREFEND_REQUEST=memory=1Gi")
	eventually(t, "READY, by us", has(api.EventReady, func(e api.Event) bool { return e.PID == os.Getpid() && e.UID == 0 }))
	eventually(t, "the request", has(api.EventAsked, func(e api.Event) bool { return maps.Equal(e.Asked, map[string]string{"memory": "1Gi"}) }))
	send(strings.Repeat("x", 5000))
	eventually(t, "the refusal of what is too large", has(api.EventRefused, func(e api.Event) bool { return true }))
	send(slices.Repeat([]string{"READY=1"}, 200)...)
	eventually(t, "the refusal of a flood", has(api.EventRefused, func(e api.Event) bool { return strings.Contains(e.Text, "too many") }))
}

// TestRootHostile injects agents that were taken over: none of them is believed, and the host does not suffer.
func TestRootHostile(t *testing.T) {
	for how, want := range map[string]string{
		"greets-wrong": "greets with",
		"garbage":      "version",
		"replay":       "replayed",
		"flood":        "flood",
	} {
		t.Run(how, func(t *testing.T) {
			f := fake(t, how)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			a, err := f.host.Inject(ctx, f.target)
			if err == nil {
				a.Close()
				t.Fatal("it was taken in")
			}
			if how != "replay" && how != "flood" && !strings.Contains(err.Error(), want) {
				t.Error(err)
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		f := fake(t, "silent")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := f.host.Inject(ctx, f.target); err == nil || time.Since(began) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
	for _, how := range []string{"many-events", "deep"} {
		t.Run(how, func(t *testing.T) {
			f := fake(t, how)
			a := f.inject(t)
			eventually(t, "its end", func() bool { return a.State().Restarts > 0 })
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.events) > 0 {
				t.Errorf("%d events were believed", len(f.events))
			}
		})
	}
	t.Run("hit-and-run", func(t *testing.T) { // its end hides no fault
		f := fake(t, "hit-and-run")
		f.inject(t)
		ends := func() (all []Change) {
			f.mu.Lock()
			defer f.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(f.changes), func(c Change) bool { return c.PID != 0 })
		}
		eventually(t, "its ends", func() bool { return len(ends()) >= 4 })
		for _, c := range ends() {
			if c.Fault != string(channel.WrongVersion) {
				t.Errorf("%+v", c)
			}
		}
	})
	t.Run("busy", func(t *testing.T) {
		fake(t, "busy").inject(t)
		before := cpu(t)
		time.Sleep(time.Second) // what is measured is a rate
		if used := cpu(t) - before; used > 300*time.Millisecond {
			t.Errorf("it cost %v of CPU in a second", used)
		}
	})
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestRootModel makes calls in any order, kills in between, and compares what comes with a model of the protocol.
func TestRootModel(t *testing.T) {
	f := genuine(t)
	rapid.Check(t, func(r *rapid.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a, err := f.host.Inject(ctx, f.target)
		if err != nil {
			r.Fatal(err)
		}
		defer a.Close()
		revision, muted, watch := 0, false, 10*time.Second
		for range rapid.IntRange(1, 6).Draw(r, "steps") {
			switch rapid.SampledFrom([]string{"apply", "apply", "health", "dump", "kill", "handshake"}).Draw(r, "step") {
			case "apply":
				asked := rapid.IntRange(0, 5).Draw(r, "revision")
				dimension := rapid.SampledFrom([]api.Dimension{
					{Name: "notify", Value: "on"}, {Name: "notify", Value: "off"}, {Name: "notify", Value: "maybe"},
					{Name: "watch", Value: "1s"}, {Name: "watch", Value: "0s"}, {Name: "watch", Value: "1ns"}, {Name: "world", Value: "on"},
				}).Draw(r, "dimension")
				want := api.Applied
				switch {
				case dimension.Name == "world" || dimension.Value == "maybe" || dimension.Value == "1ns":
					want = api.Refused
				case dimension.Name == "notify" && (dimension.Value == "off") == muted:
					want = api.Unchanged
				case dimension.Name == "watch" && dimension.Value == short(watch):
					want = api.Unchanged
				}
				resp, err := a.Apply(ctx, api.ApplyRequest{Revision: asked, Dimensions: []api.Dimension{dimension}})
				if asked < revision {
					if err == nil {
						r.Fatalf("revision %d after %d was taken", asked, revision)
					}
					continue
				}
				if err != nil || resp.Revision != asked || len(resp.Results) != 1 || resp.Results[0].Status != want {
					r.Fatalf("%+v, want %s: %+v, %v", dimension, want, resp, err)
				}
				revision = asked
				if want == api.Applied && dimension.Name == "notify" {
					muted = dimension.Value == "off"
				}
				if want == api.Applied && dimension.Name == "watch" {
					watch, _ = time.ParseDuration(dimension.Value)
				}
			case "health":
				if h, err := a.Health(ctx); err != nil || h.Revision != revision {
					r.Fatalf("revision %d, want %d: %v", h.Revision, revision, err)
				}
			case "dump":
				if _, err := a.Dump(ctx, api.DumpRequest{Limit: rapid.IntRange(-1, 3).Draw(r, "limit")}); err != nil {
					r.Fatal(err)
				}
			case "handshake":
				if _, err := askNow[api.HandshakeRequest, api.HandshakeResponse](ctx, a, "Handshake", api.HandshakeRequest{Version: 1, Oldest: 1}); err == nil {
					r.Fatal("a second handshake was made")
				}
			case "kill":
				last, _ := a.Process()
				if err := unix.Kill(last, unix.SIGKILL); err != nil {
					r.Fatal(err)
				}
				// The next one has in force what this one had.
				eventually(t, "another agent", func() bool { pid, _ := a.Process(); return pid != 0 && pid != last })
			}
		}
	})
}

func short(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }
