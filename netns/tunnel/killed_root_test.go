package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/network"
)

// tunneldMode makes this test binary a tunneld that can be killed: it serves one container until its input ends.
const tunneldMode = "FOREFEND_TUNNEL_TEST_TUNNELD"

// errand is what such a tunneld reads: what it is to serve, and for whom.
type errand struct {
	Dir     string
	Tunnels []Tunnel
	Guard   api.GuardRequest
	Want    flow.Profile
}

// tunneld guards a container, attaches it and writes the answer.
func tunneld(in io.Reader, out io.Writer) error {
	var e errand
	if err := json.NewDecoder(in).Decode(&e); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := Open(ctx, NewPool(e.Tunnels), e.Dir, e.Dir+".drained", func(int) error { return nil })
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	guarded, err := s.Guard(ctx, e.Guard)
	if err != nil {
		return err
	}
	got, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Profile: e.Want})
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(got); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, in)
	cancel()
	return <-ran
}

// begin starts a tunneld and returns what it answers, once it does, and how to kill it.
func (e errand) begin(t testing.TB) (got api.Attached, pid int, kill func()) {
	t.Helper()
	body, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), tunneldMode+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	_, err = in.Write(body)
	if err := errors.Join(err, json.NewDecoder(out).Decode(&got)); err != nil {
		t.Fatalf("tunneld: %v", err)
	}
	return got, cmd.Process.Pid, kill
}

// TestRootKilled: tunneld is killed under a container's connection by OpenVPN, and another one is started. Where that has the same tunnel
// and the gateway gives the same address again, the connection goes on; else it is ended once that is known. New ones go through.
func TestRootKilled(t *testing.T) {
	if !onNode(t) {
		return
	}
	for name, c := range map[string]struct {
		more   []string      // of the gateway's configuration
		change func(*errand) // before tunneld is started again
		same   bool          // the gateway gives the same address again
		goesOn bool
		other  bool // the tunnel is another one by then, to which nothing leads that led to the one before
	}{
		"as before":           {nil, func(*errand) {}, true, true, false},
		"another address":     {[]string{"duplicate-cn"}, func(*errand) {}, false, false, false}, // what comes with the same certificate is another client
		"a tunnel changed":    {nil, func(e *errand) { e.Tunnels[0].MTU = 1380 }, true, false, true},
		"a tunnel taken away": {nil, func(e *errand) { e.Tunnels[0].Name = "other" }, true, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVPN(t, c.more...)
			if err := v.behind.Do(func() error { return echo(t, ":7777") }); err != nil {
				t.Fatal(err)
			}
			who := newContainer(t)
			e := errand{Dir: t.TempDir(), Tunnels: []Tunnel{v.tunnel(t, "vpn", 1, 0)}, Guard: who.guard(), Want: flow.Profile{Encryption: flow.Standard}}
			g := intercepted(t, who, &e.Guard)
			first, pid, kill := e.begin(t)
			conn, r, as, err := g.dialTo(t, wayOf(first), behindVPN)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			network.Bounce(t, conn, r, 1<<20)
			openvpns := processesOf(t, pid)
			if len(openvpns) != 1 {
				t.Fatalf("openvpns of tunneld: %v", openvpns)
			}

			began := time.Now()
			kill()
			eventually(t, "openvpn gone with its tunneld", func() bool { return unix.Kill(openvpns[0], 0) != nil })
			c.change(&e)
			again, _, _ := e.begin(t)
			if led := again.Mark != first.Mark && again.Device != first.Device; again.Tunnel != e.Tunnels[0].Name || led != c.other || !led && again != first {
				t.Errorf("after the kill %+v, before %+v", again, first)
			}
			if c.goesOn {
				network.Bounce(t, conn, r, 1<<20)
				t.Logf("the connection went on %s after the kill", time.Since(began))
			} else {
				_ = conn.SetDeadline(time.Now().Add(patience)) // a connection of ours has deadlines
				_, err := io.CopyN(conn, network.Zeroes{}, 1)
				if err == nil {
					_, err = r.ReadByte()
				}
				if late := net.Error(nil); err == nil || errors.As(err, &late) && late.Timeout() {
					t.Errorf("the connection that cannot go on is not ended: %v", err)
				}
				t.Logf("the connection was ended %s after the kill: %v", time.Since(began), err)
			}
			another, r2, now, err := g.dialTo(t, wayOf(again), behindVPN)
			if err != nil {
				t.Fatal(err)
			}
			defer another.Close()
			network.Bounce(t, another, r2, 1<<20)
			t.Logf("a new one went through %s after the kill", time.Since(began))
			if (now == as) != c.same {
				t.Errorf("its address was %s and is %s", as, now)
			}
		})
	}
}

// behindVPN is the server that echoes behind an OpenVPN gateway.
const behindVPN = "10.9.0.1:7777"
