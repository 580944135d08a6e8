package e2e

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestUpdate changes the resources of running containers as nerdctl update and the kubelet do.
func TestUpdate(t *testing.T) {
	h := newHost(t, harness.WithConfig("[guardrails]\nmemory = { max = \"256Mi\" }\n"))
	t.Run("merged", func(t *testing.T) { updateIsMerged(t, h) })
	t.Run("guardrail", func(t *testing.T) { updateIsClamped(t, h) })
	t.Run("refused", func(t *testing.T) { refusedUpdateLeavesNothing(t, h) })
	t.Run("below use on v2", func(t *testing.T) { stockKillsBelowUse(t, h) })
	t.Run("cache", func(t *testing.T) { cacheIsNoObstacle(t, h) })
	t.Run("annotation", func(t *testing.T) { annotationHoldsAcrossUpdate(t, h) })
}

func (h *host) update(t *testing.T, id string, r *specs.LinuxResources) error {
	t.Helper()
	return h.task(t, id).Update(h.context(t), client.WithResources(r))
}

func memory(limit int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
}

func updateIsMerged(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--memory-limit=134217728", "--cpus=1"))
	if d := h.explain(t, id); d.Revision != 1 {
		t.Errorf("revision %d before any update", d.Revision)
	}
	pids := int64(40)
	r := memory(64 << 20)
	r.Pids = &specs.LinuxPids{Limit: &pids}
	if err := h.update(t, id, r); err != nil {
		t.Fatal(err)
	}
	d := h.explain(t, id)
	if f := d.want(t, "memory", "64 MiB", "request"); f.Source != "update" || d.Revision != 2 {
		t.Errorf("revision %d, memory %+v", d.Revision, f)
	}
	d.want(t, "pids", "40", "request")
	if f := d.want(t, "cpus", "1", "request"); f.Source != "spec" { // what the update did not name stays whose it was
		t.Errorf("cpus %+v", f)
	}
	if m, p, q := h.limit(t, id, "memory"), h.limit(t, id, "pids"), h.limit(t, id, "cpu.quota"); m != 64<<20 || p != 40 || q == 0 {
		t.Errorf("the kernel has memory %d, pids %d, quota %d", m, p, q)
	}
	if limits := h.row(t, id).Limits; limits.Memory != 64<<20 || limits.PIDs != 40 {
		t.Errorf("ps: %+v", limits)
	}
	eventually(t, "event updated", func() bool {
		return slices.ContainsFunc(h.events(t, id), func(e event) bool { return e.Kind == "updated" })
	})
	if err := h.update(t, id, memory(96<<20)); err != nil {
		t.Fatal(err)
	}
	d = h.explain(t, id)
	d.want(t, "memory", "96 MiB", "request")
	d.want(t, "pids", "40", "request") // of the first update
	if d.Revision != 3 || h.limit(t, id, "memory") != 96<<20 {
		t.Errorf("revision %d, the kernel has %d", d.Revision, h.limit(t, id, "memory"))
	}
}

func updateIsClamped(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--memory-limit=134217728"))
	if err := h.update(t, id, memory(1<<30)); err != nil {
		t.Fatal(err)
	}
	f := h.explain(t, id).want(t, "memory", "256 MiB", "guardrail")
	if !slices.ContainsFunc(f.Lost, func(l lostClaim) bool { return l.Text == "1 GiB" && l.Source == "update" }) {
		t.Errorf("losers %+v", f.Lost)
	}
	if n := h.limit(t, id, "memory"); n != 256<<20 {
		t.Errorf("the kernel has %d", n)
	}
}

// refusedUpdateLeavesNothing asks for less memory than is in use. On cgroup v1 runc returns an error, and may have
// applied half; on v2 Forefend does, because the kernel would kill the container.
func refusedUpdateLeavesNothing(t *testing.T, h *host) {
	id := h.start(t, probe("grow", "80", "0", "1000s").with("--memory-limit=134217728", "--cpus=1"))
	eventually(t, "80 MiB in use", func() bool { return h.limit(t, id, "memory.used") > 80<<20 })
	quota := int64(50000)
	r := memory(16 << 20)
	r.CPU = &specs.LinuxCPU{Quota: &quota}
	before := h.limit(t, id, "cpu.quota")
	if err := h.update(t, id, r); err == nil {
		t.Fatal("a limit below usage is accepted")
	} else if version := h.cgroupVersion(t, id); version == 2 && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the error is not one that a client can tell from others: %v", err)
	}
	if n := h.limit(t, id, "memory"); n != 128<<20 {
		t.Errorf("the kernel has %d", n)
	}
	if n := h.limit(t, id, "cpu.quota"); n != before {
		t.Errorf("the quota is %d, was %d", n, before)
	}
	d := h.explain(t, id)
	d.want(t, "memory", "128 MiB", "request")
	if d.Revision != 1 {
		t.Errorf("revision %d", d.Revision)
	}
}

// stockKillsBelowUse shows what decision 0019 is about, and that it is about cgroup v2 alone.
func stockKillsBelowUse(t *testing.T, h *host) {
	id := h.start(t, probe("grow", "80", "0", "1000s").with("--memory-limit=134217728").under(stock))
	eventually(t, "80 MiB in use", func() bool { return h.limit(t, id, "memory.used") > 80<<20 })
	version := h.cgroupVersion(t, id)
	err := h.update(t, id, memory(16<<20))
	if version == 1 {
		if err == nil {
			t.Error("the kernel accepts a limit below usage")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stock shim's container is killed", func() bool {
		status, err := h.task(t, id).Status(h.context(t))
		return err == nil && status.Status == client.Stopped && status.ExitStatus == 137
	})
}

// cacheIsNoObstacle: what is in use but can be reclaimed does not stand in the way of a limit, under either shim.
func cacheIsNoObstacle(t *testing.T, h *host) {
	for _, runtime := range []string{stock, forefend} {
		id := h.start(t, sh("dd if=/dev/zero of=/file bs=1M count=96 2>/dev/null; sync; echo > /dev/shm/done; exec sleep 1000",
			"--memory-limit=134217728").under(runtime))
		eventually(t, "96 MiB of cache", func() bool {
			return h.exec(id, "test", "-e", "/dev/shm/done").Code == 0 && h.limit(t, id, "memory.used") > 90<<20
		})
		if err := h.update(t, id, memory(48<<20)); err != nil {
			t.Errorf("%s: %v", runtime, err)
		}
		if n := h.limit(t, id, "memory"); n != 48<<20 {
			t.Errorf("%s: the kernel has %d", runtime, n)
		}
		if r := h.exec(id, "true"); r.Code != 0 {
			t.Errorf("%s: the container did not live on: %v", runtime, r.Check())
		}
	}
}

// annotationHoldsAcrossUpdate: the workload tightened itself; an update of the operator's tools is a request like the
// first one, which the annotation amends again.
func annotationHoldsAcrossUpdate(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", annotate("memory", "64Mi")))
	if err := h.update(t, id, memory(128<<20)); err != nil {
		t.Fatal(err)
	}
	h.explain(t, id).want(t, "memory", "64 MiB", "request")
	if n := h.limit(t, id, "memory"); n != 64<<20 {
		t.Errorf("the kernel has %d", n)
	}
}
