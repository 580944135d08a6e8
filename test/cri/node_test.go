// Package cri tests Forefend as what a kubelet sees: containerd's CRI plugin as the server, its gRPC and streaming
// interfaces as the client, real pods on a real bridge. Whatever a test does, it does under Forefend and under stock
// runc, and the two have to agree; what it expects besides, it says itself.
package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// The runtime handlers that are compared.
const (
	forefend = "forefend"
	stock    = "runc"
)

var handlers = []string{stock, forefend}

// callTimeout bounds one call: generous, for a machine that others use too.
const callTimeout = 2 * time.Minute

// node is a private containerd with CRI.
type node struct {
	*harness.Env
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	conn    *grpc.ClientConn
	next    atomic.Int64
}

// newNode starts an environment with the busybox and static images. It has to be without a trace of any pod when the
// test ends.
func newNode(t *testing.T, opts ...harness.Option) *node {
	t.Helper()
	opts = append([]harness.Option{harness.WithCRI(), harness.WithImages("busybox", "static")}, opts...)
	n := &node{Env: harness.New(t, opts...)}
	n.dial(t)
	t.Cleanup(func() {
		if !t.Failed() { // a failed test leaves its pods to Close
			n.noLeaks(t)
		}
		_ = n.conn.Close()
	})
	return n
}

// dial connects, again after containerd was restarted.
func (n *node) dial(t *testing.T) {
	t.Helper()
	conn, err := n.DialCRI()
	if err != nil {
		t.Fatal(err)
	}
	n.conn, n.runtime, n.images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	eventually(t, "CRI is ready", func() bool {
		s, err := n.runtime.Status(t.Context(), &cri.StatusRequest{})
		if err != nil {
			return false
		}
		for _, c := range s.Status.Conditions {
			if (c.Type == "RuntimeReady" || c.Type == "NetworkReady") && !c.Status {
				return false
			}
		}
		return true
	})
}

// noLeaks fails the test when anything of any pod is still there: on the machine, or in Forefend's state.
func (n *node) noLeaks(t *testing.T) {
	t.Helper()
	left, err := n.Leaks(context.Background()) // the test's own context has ended in a clean-up
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v\n%s", err, strings.Join(left, "\n"))
	}
	for _, pattern := range []string{
		filepath.Join(n.Dir, "run", "n", "*"), filepath.Join(n.Dir, "run", "c", "*", "*"), // Forefend's state
		filepath.Join(n.Dir, "ipam", "pods", "10.*"), // addresses of pods
	} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			t.Errorf("left behind: %v", files)
		}
	}
}

// dir makes a directory of the environment.
func (n *node) dir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(n.Dir, fmt.Sprintf("%s-%d", name, n.next.Add(1)))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// within is a context for one call.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), callTimeout) // clean-ups call too
	t.Cleanup(cancel)
	return ctx
}

// underBoth runs f under both handlers, as subtests, and fails when what it returned differs.
func underBoth(t *testing.T, f func(t *testing.T, handler string) string) {
	t.Helper()
	got := make(map[string]string)
	for _, h := range handlers {
		if !t.Run(h, func(t *testing.T) { got[h] = f(t, h) }) {
			return
		}
	}
	if got[stock] != got[forefend] {
		t.Errorf("the runtimes differ.\n%s:\n%s\n%s:\n%s", stock, got[stock], forefend, got[forefend])
	}
}

// eventually polls until ok, or fails the test saying what did not come about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}
