package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// The runtimes.
const (
	forefend = "io.containerd.forefend.v1"
	stock    = "io.containerd.runc.v2"
)

// host is a private containerd under Forefend.
type host struct {
	*harness.Env
	next int
}

func newHost(t testing.TB, opts ...harness.Option) *host {
	t.Helper()
	// Everything here runs under a tracer or beside one: a late answer would be another path than the one to test.
	const config = "sample = \"100ms\"\n[deadlines]\nadmit = \"10s\"\npredict = \"5s\"\ncold_start = \"30s\"\n"
	h := &host{Env: harness.New(t, append([]harness.Option{harness.WithImages("busybox")}, append(opts, harness.WithConfig(config))...)...)}
	h.warm(t)
	return h
}

// warm makes sure that a daemon runs.
func (h *host) warm(t testing.TB) {
	t.Helper()
	r := h.Forefend("daemon", "--detach", "--ready-timeout", "60s")
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
}

func (h *host) newID(prefix string) string {
	h.next++
	return fmt.Sprintf("%s-%d", prefix, h.next)
}

// state is a path below Forefend's state directory, root below the one of its durable data.
func (h *host) state(elem ...string) string {
	return filepath.Join(append([]string{h.Dir, "run"}, elem...)...)
}

func (h *host) root(elem ...string) string {
	return filepath.Join(append([]string{h.Dir, "forefend"}, elem...)...)
}

// leftovers are what is left of containers in Forefend's own directories: records, listeners, files half written.
func (h *host) leftovers(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{
		h.state("c", "*", "*"), h.state("c", "*", ".*"), h.state("n", "*"), h.state("n", ".*"),
		h.root("spool", "*"), h.root("spool", ".*"), h.root("sealed", ".*"), h.root("store", "*.new"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// settled waits until nothing is left of any container, on the machine or in Forefend's directories, and says how
// long that took. What is still there after the time makes the test fail.
func (h *host) settled(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	var left []string
	if !eventually(within, func() bool {
		found, err := h.Leaks(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		left = append(found, h.leftovers(t)...)
		return len(left) == 0
	}) {
		t.Errorf("left behind after %v:\n  %s", time.Since(began).Round(time.Millisecond), strings.Join(left, "\n  "))
		if stuck := h.Stuck(context.Background()); stuck != "" {
			t.Logf("shims that are still there:\n%s", stuck)
		}
	}
	return time.Since(began)
}

// remove ends and deletes a container as its owner would, whatever is left of it.
func (h *host) remove(t testing.TB, id string) {
	t.Helper()
	if r := h.Ctr("task", "rm", "-f", id); r.Code != 0 && !strings.Contains(r.Stderr, "not found") {
		t.Logf("remove the task of %s: %v", id, r.Check())
	}
	if r := h.Ctr("container", "rm", id); r.Code != 0 && !strings.Contains(r.Stderr, "not found") {
		t.Errorf("remove %s: %v", id, r.Check())
	}
	h.Ctr("snapshot", "rm", id)
}

// run is one run of a workload as `forefend history --json` prints it.
type run struct {
	ID    struct{ Container string }
	Run   string
	Final bool
	Ended time.Time
	Exit  struct {
		Status uint32
		Lost   bool
	}
}

// history is what the daemon knows of the one workload with a name: its runs, and how many were counted.
func (h *host) history(t testing.TB, name string) (counted int, runs []run) {
	t.Helper()
	var out struct {
		Workloads []struct{ Runs int }
		Runs      []run
	}
	r := h.Forefend("history", name, "--json")
	if r.Code == 4 { // not one run was ever reported
		return 0, nil
	}
	if err := errors.Join(r.Check(), json.Unmarshal([]byte(r.Stdout), &out)); err != nil {
		t.Fatal(err)
	}
	if len(out.Workloads) > 1 {
		t.Fatalf("%d workloads are called %q", len(out.Workloads), name)
	}
	for _, w := range out.Workloads {
		counted = w.Runs
	}
	return counted, out.Runs
}

// ask runs forefend with --json and decodes what it prints.
func (h *host) ask(t testing.TB, into any, args ...string) {
	t.Helper()
	r := h.Forefend(append(args, "--json")...)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Stdout), into); err != nil {
		t.Fatalf("forefend %v printed %q: %v", args, r.Stdout, err)
	}
}

// eventually polls until ok or until d has passed, and returns which.
func eventually(d time.Duration, ok func() bool) bool {
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

// containerdPid is the process that containerd's own pid in /proc says it is: the harness starts one.
func (h *host) containerdPid(t testing.TB) int {
	t.Helper()
	pids, err := h.Pids("containerd")
	if err != nil || len(pids) != 1 {
		t.Fatalf("containerd: %v %v", pids, err)
	}
	return pids[0]
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
