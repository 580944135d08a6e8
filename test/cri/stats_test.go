package cri

import (
	"fmt"
	"slices"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestStats checks the figures that kubelets collect: of containers, pods, and the image file system.
func TestStats(t *testing.T) {
	n := newNode(t)
	underBoth(t, func(t *testing.T, handler string) string {
		p := n.pod(t, handler)
		c := p.start(t, probe("grow", "64", "1000", "10m"))
		w := p.start(t, shell("head -c 1000000 /dev/zero > /written; echo ready; sleep 1000"))
		w.prints(t, "ready")
		stats := func(id string) *cri.ContainerStats {
			resp, err := n.runtime.ContainerStats(within(t), &cri.ContainerStatsRequest{ContainerId: id})
			if err != nil {
				t.Fatal(err)
			}
			return resp.Stats
		}
		eventually(t, "64 MiB in use and CPU time spent", func() bool {
			s := stats(c.id)
			return s.Memory.GetWorkingSetBytes().GetValue() >= 64<<20 && s.Cpu.GetUsageCoreNanoSeconds().GetValue() > 0 &&
				s.Memory.GetUsageBytes().GetValue() > 0 && s.Attributes.Id == c.id
		})
		eventually(t, "a megabyte in the writable layer", func() bool {
			return stats(w.id).WritableLayer.GetUsedBytes().GetValue() >= 1000000
		})

		resp, err := n.runtime.ListContainerStats(within(t), &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: p.id}})
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprintln("containers", len(resp.Stats))
		eventually(t, "the pod's statistics", func() bool {
			resp, err := n.runtime.PodSandboxStats(within(t), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
			if err != nil {
				t.Fatal(err)
			}
			l := resp.Stats.Linux
			return len(l.Containers) == 2 && l.Memory.GetWorkingSetBytes().GetValue() > 64<<20 &&
				l.Network.GetDefaultInterface().GetName() == "eth0" && l.Process.GetProcessCount().GetValue() >= 3
		})
		list, err := n.runtime.ListPodSandboxStats(within(t), &cri.ListPodSandboxStatsRequest{Filter: &cri.PodSandboxStatsFilter{Id: p.id}})
		if err != nil {
			t.Fatal(err)
		}
		return out + fmt.Sprintln("pods", len(list.Stats))
	})

	t.Run("images", func(t *testing.T) {
		info, err := n.images.ImageFsInfo(within(t), &cri.ImageFsInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(info.ImageFilesystems) == 0 || info.ImageFilesystems[0].GetUsedBytes().GetValue() == 0 {
			t.Errorf("image file system: %v", info)
		}
		list, err := n.images.ListImages(within(t), &cri.ListImagesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(list.Images, func(i *cri.Image) bool { return slices.Contains(i.RepoTags, harness.Image("busybox")) }) {
			t.Errorf("images: %v", list.Images)
		}
	})
}

// TestStatus compares every field of a container's status that a kubelet reads.
func TestStatus(t *testing.T) {
	n := newNode(t)
	underBoth(t, func(t *testing.T, handler string) string {
		p := n.pod(t, handler)
		dir := n.dir(t, "mounted")
		c, err := p.create(t, shell("exit 42"), bind(dir, "/m"), security(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups = &cri.Int64Value{Value: 1000}, []int64{7}
		}), func(c *cri.ContainerConfig) { c.Annotations["k"], c.StopSignal = "v", cri.Signal_SIGNAL_SIGINT })
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprintln(c.status(t).State)
		if err := c.begin(t); err != nil {
			t.Fatal(err)
		}
		s := c.ended(t)
		// A process that ends at once can do so before containerd has noted that it was started, under stock too.
		const atOnce = 1_000_000_000 // ns
		if s.CreatedAt == 0 || s.StartedAt < s.CreatedAt || s.FinishedAt < s.StartedAt-atOnce {
			t.Errorf("times: created %d started %d finished %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
		}
		if s.LogPath != c.log || s.Id != c.id || s.Annotations["k"] != "v" {
			t.Errorf("status: %v", s)
		}
		resp, err := n.runtime.ListContainers(within(t), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: p.id}})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Containers) != 1 || resp.Containers[0].State != cri.ContainerState_CONTAINER_EXITED {
			t.Errorf("list: %v", resp.Containers)
		}
		for _, m := range s.Mounts {
			out += fmt.Sprintln(m.ContainerPath, m.Readonly, m.Propagation)
		}
		return out + fmt.Sprintln(s.State, s.ExitCode, s.Reason, s.Message, s.Image.GetImage(), s.ImageRef, s.User, s.StopSignal, s.Resources)
	})
}

// TestStop checks how containers are stopped: by their signal, and by force when they do not listen.
func TestStop(t *testing.T) {
	n := newNode(t)
	pods := n.pods(t)
	for name, script := range map[string]string{
		"listens":       "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
		"does not":      "trap '' TERM; echo ready; while :; do sleep 0.05; done",
		"has children":  "sleep 1000 & sleep 1000 & echo ready; wait",
		"is stopped":    "echo ready; kill -STOP $$",
		"already ended": "echo ready; exit 9",
		"forks on stop": "trap 'sleep 1000 & exit 6' TERM; echo ready; while :; do sleep 0.05; done",
	} {
		t.Run(name, func(t *testing.T) {
			underBoth(t, func(t *testing.T, handler string) string {
				c := pods[handler].start(t, shell(script))
				c.prints(t, "ready")
				c.kill(t, 1)
				c.kill(t, 1)
				return c.end(t)
			})
		})
	}
}
