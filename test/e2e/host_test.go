package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"forefend.dev/forefend/test/e2e/harness"
)

// The runtimes that are compared.
const (
	forefend = "io.containerd.forefend.v1"
	stock    = "io.containerd.runc.v2"
)

const shimBinary = "containerd-shim-forefend-v1"

// host is a private containerd whose containers must all be gone, without a trace, when the test ends.
type host struct {
	*harness.Env
	t    testing.TB // the test that owns the environment
	next atomic.Int64
}

// newHost starts an environment with the busybox and static images.
func newHost(t testing.TB, opts ...harness.Option) *host {
	t.Helper()
	h := &host{Env: harness.New(t, append([]harness.Option{harness.WithImages("busybox", "static")}, opts...)...), t: t}
	t.Cleanup(func() {
		if !t.Failed() { // a failed test leaves its containers to Close
			h.noLeaks(t)
		}
	})
	return h
}

// noLeaks fails the test when anything of any container is still there: on the machine, or in Forefend's state.
func (h *host) noLeaks(t testing.TB) {
	t.Helper()
	left, err := h.Leaks(context.Background()) // the test's own context has ended in a clean-up
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v\n%s", err, strings.Join(left, "\n"))
	}
	for _, pattern := range []string{h.state("n", "*"), h.state("c", "*", "*")} {
		if files, _ := filepath.Glob(pattern); len(files) > 0 {
			t.Errorf("left in Forefend's state: %v", files)
		}
	}
}

// state is a path below Forefend's state directory, root below the one of its durable data.
func (h *host) state(elem ...string) string {
	return filepath.Join(append([]string{h.Dir, "run"}, elem...)...)
}

func (h *host) root(elem ...string) string {
	return filepath.Join(append([]string{h.Dir, "forefend"}, elem...)...)
}

func (h *host) newID(prefix string) string { return fmt.Sprintf("%s-%d", prefix, h.next.Add(1)) }

// container is one `ctr run`.
type container struct {
	id      string // chosen when empty
	runtime string // Forefend's when empty
	image   string // short name; busybox when empty
	flags   []string
	args    []string
}

// sh is a container that runs a shell script.
func sh(script string, flags ...string) container {
	return container{flags: flags, args: []string{"sh", "-c", script}}
}

// probe is a container of the static image that runs the probe.
func probe(args ...string) container {
	return container{image: "static", args: append([]string{"/probe"}, args...)}
}

func (c container) with(flags ...string) container {
	c.flags = append(c.flags[:len(c.flags):len(c.flags)], flags...)
	return c
}

func (c container) under(runtime string) container {
	c.runtime = runtime
	return c
}

func (c container) named(id string) container {
	c.id = id
	return c
}

// command is the command line of ctr.
func (c container) command(h *host, flags ...string) []string {
	if c.runtime == "" {
		c.runtime = forefend
	}
	if c.image == "" {
		c.image = "busybox"
	}
	image := c.image
	if !strings.Contains(image, "/") {
		image = harness.Image(image)
	}
	line := append([]string{"run", "--runtime", c.runtime}, flags...)
	line = append(line, c.flags...)
	return append(append(line, image, c.id), c.args...)
}

// run runs c to its end and removes it.
func (h *host) run(c container) harness.Result {
	if c.id == "" {
		c.id = h.newID("run")
	}
	return h.Ctr(c.command(h, "--rm")...)
}

// mustRun runs c, which has to end with 0, and returns what it wrote.
func (h *host) mustRun(t testing.TB, c container) string {
	t.Helper()
	r := h.run(c)
	if err := r.Check(); err != nil {
		t.Fatalf("%v\noutput: %s", err, r.Stdout)
	}
	return r.Stdout
}

// start starts c in the background and removes it when t ends. It returns its id.
func (h *host) start(t testing.TB, c container) string {
	t.Helper()
	if c.id == "" {
		c.id = h.newID("bg")
	}
	if err := h.Ctr(c.command(h, "-d")...).Check(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.remove(c.id) })
	return c.id
}

// remove ends and deletes a container that may be gone already. It makes ctr's calls without ctr, which takes a tenth of a second to begin.
func (h *host) remove(id string) {
	if h.Client() == nil {
		return // containerd did not come back: its environment's Close says so
	}
	ctx, cancel := context.WithTimeout(h.Context(context.Background()), time.Minute)
	defer cancel()
	c, err := h.Client().LoadContainer(ctx, id)
	if err != nil {
		return
	}
	if task, err := c.Task(ctx, cio.Load); err == nil {
		_ = task.Resume(ctx) // a frozen process cannot die on cgroup v1
		_, _ = task.Delete(ctx, client.WithProcessKill)
	}
	_ = c.Delete(ctx, client.WithSnapshotCleanup)
}

// exec runs a command in a running container.
func (h *host) exec(id string, args ...string) harness.Result {
	return h.Ctr(append([]string{"task", "exec", "--exec-id", h.newID("x"), id}, args...)...)
}

// withProbe mounts the probe into an image that has none.
func (h *host) withProbe() string {
	return "--mount=type=bind,src=" + h.Probe() + ",dst=/probe,options=rbind:ro"
}

// file writes a file of the environment and returns its path.
func (h *host) file(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually polls until ok, or fails the test saying what did not come about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(time.Minute, ok) {
		t.Fatalf("in vain: %s", what)
	}
}

// within polls until ok or until d has passed, and returns which.
func within(d time.Duration, ok func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(d); ; <-tick.C {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
