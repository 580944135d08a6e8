package cri

import (
	"fmt"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// limits of a container as the kernel has them, one a line.
func (c *container) limits(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, f := range []struct{ controller, v1, v2 string }{
		{"memory", "memory.limit_in_bytes", "memory.max"},
		{"cpu", "cpu.shares", "cpu.weight"},
		{"cpu", "cpu.cfs_quota_us", "cpu.max"},
		{"cpuset", "cpuset.cpus", "cpuset.cpus"},
		{"pids", "pids.max", "pids.max"},
	} {
		fmt.Fprintf(&out, "%s %s\n", f.v1, c.cgroup(t, f.controller, f.v1, f.v2))
	}
	return out.String()
}

// TestResources checks the limits that a kubelet sets at first, and those it sends when a pod is resized in place.
func TestResources(t *testing.T) {
	n := newNode(t)
	underBoth(t, func(t *testing.T, handler string) string {
		p := n.pod(t, handler, func(c *cri.PodSandboxConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 256 << 20}
			c.Linux.Overhead = &cri.LinuxContainerResources{CpuShares: 10, MemoryLimitInBytes: 16 << 20}
		})
		c := p.start(t, sleeper(), func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900, CpusetCpus: "0",
			}
		})
		c.prints(t, "ready")
		out := c.limits(t) + "oom_score_adj " + readFile(t, fmt.Sprintf("/proc/%d/oom_score_adj", c.pid(t)))
		for _, r := range []*cri.LinuxContainerResources{
			// A resize as kubelet sends it: memory alone, then cpu alone, then both, up and down.
			{MemoryLimitInBytes: 128 << 20},
			{CpuPeriod: 100000, CpuQuota: 150000, CpuShares: 1024},
			{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 204, MemoryLimitInBytes: 48 << 20},
			{CpuPeriod: 100000, CpuQuota: -1},
			{CpusetCpus: "0-1"},
			{MemoryLimitInBytes: 1 << 20}, // less than it uses
			{MemoryLimitInBytes: 96 << 20, MemorySwapLimitInBytes: 96 << 20},
		} {
			_, err := n.runtime.UpdateContainerResources(within(t), &cri.UpdateContainerResourcesRequest{ContainerId: c.id, Linux: r})
			if r.MemoryLimitInBytes == 1<<20 {
				out += fmt.Sprintln("refused:", err != nil)
				continue
			}
			out += fmt.Sprintln(err) + c.limits(t) + c.exec(t, "true")
		}
		status := c.status(t).Resources.GetLinux()
		if status.GetMemoryLimitInBytes() != 96<<20 || status.GetCpuShares() != 204 {
			t.Errorf("resources in the status: %v", status)
		}
		return out + fmt.Sprintln(status)
	})

	t.Run("not started", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			c, err := p.create(t, sleeper())
			if err != nil {
				t.Fatal(err)
			}
			_, err = n.runtime.UpdateContainerResources(within(t), &cri.UpdateContainerResourcesRequest{
				ContainerId: c.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 80 << 20}})
			out := fmt.Sprintln(err)
			if err := c.begin(t); err != nil {
				t.Fatal(err)
			}
			if got := c.cgroup(t, "memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(80<<20) {
				t.Errorf("limit %s", got)
			}
			return out + c.limits(t)
		})
	})

	t.Run("pod", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			_, err := n.runtime.UpdatePodSandboxResources(within(t), &cri.UpdatePodSandboxResourcesRequest{
				PodSandboxId: p.id, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 100 << 20}})
			return fmt.Sprintln(err)
		})
	})
}
