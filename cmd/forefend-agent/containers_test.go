package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/cmd/internal/egress"
	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/netns/intercept/document"
	"forefend.dev/forefend/runtime/cgroup"
)

// keeper is a shim that knows the cgroups below those of containers.
type keeper struct {
	below uint64 // of batch
	asked atomic.Int32
}

func (k *keeper) Ask(_ context.Context, method string, body []byte) ([]byte, error) {
	k.asked.Add(1)
	var q egress.ContainerQuestion
	if err := json.Unmarshal(body, &q); err != nil || method != api.AskContainer || q.Cgroup != k.below {
		return nil, fmt.Errorf("%s of %d is not answered: %w", method, q.Cgroup, err)
	}
	return json.Marshal(egress.ContainerAnswer{Container: "batch"})
}

// TestContainersOf: a connection is its socket's container's; what is below one is asked for once.
func TestContainersOf(t *testing.T) {
	group, err := cgroup.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mounts), " - cgroup2 ") {
		t.Skip("this node has no v2 hierarchy")
	}
	own, err := group.ID()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	local, remote := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(l.Addr().String())
	shim := &keeper{below: own}
	whose := newContainers(shim)
	whose.set([]document.Container{{Cgroup: own, Base: flow.Context{Container: "web"}}, {Cgroup: own + 1, Base: flow.Context{Container: "batch"}}})
	if id, err := whose.Container(t.Context(), "tcp", local, remote); id != "web" || err != nil || shim.asked.Load() != 0 {
		t.Errorf("%q, %v, asked %d times", id, err, shim.asked.Load())
	}
	whose.set([]document.Container{{Cgroup: own + 1, Base: flow.Context{Container: "batch"}}})
	for range 3 {
		if id, err := whose.Container(t.Context(), "tcp", local, remote); id != "batch" || err != nil || shim.asked.Load() != 1 {
			t.Errorf("of a cgroup below one: %q, %v, asked %d times", id, err, shim.asked.Load())
		}
	}
	shim.below = 0
	whose.set(nil)
	if id, err := whose.Container(t.Context(), "tcp", local, remote); err == nil || !strings.Contains(err.Error(), "not answered") {
		t.Errorf("of a cgroup that is nobody's: %q, %v", id, err)
	}
	if id, err := whose.Container(t.Context(), "tcp", remote, remote); !errors.Is(err, unix.ENOENT) {
		t.Errorf("of a connection that is not there: %q, %v", id, err)
	}
}
