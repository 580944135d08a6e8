package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod is a running pod.
type pod struct {
	*node
	id     string
	config *cri.PodSandboxConfig
}

// podConfig is what a kubelet would ask for a pod without wishes, changed by mods.
func (n *node) podConfig(t *testing.T, mods ...func(*cri.PodSandboxConfig)) *cri.PodSandboxConfig {
	t.Helper()
	name := fmt.Sprintf("pod-%d", n.next.Add(1))
	c := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "default", Attempt: 1},
		Hostname:     name,
		LogDirectory: n.dir(t, "log"),
		Labels:       map[string]string{"app": name},
		Annotations:  map[string]string{},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/" + filepath.Base(n.Dir) + "/" + name,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	for _, m := range mods {
		m(c)
	}
	return c
}

// pod runs a pod and removes it when the test ends.
func (n *node) pod(t *testing.T, handler string, mods ...func(*cri.PodSandboxConfig)) *pod {
	t.Helper()
	p := &pod{node: n, config: n.podConfig(t, mods...)}
	resp, err := n.runtime.RunPodSandbox(within(t), &cri.RunPodSandboxRequest{Config: p.config, RuntimeHandler: handler})
	if err != nil {
		t.Fatalf("run pod: %v", err)
	}
	p.id = resp.PodSandboxId
	t.Cleanup(func() { p.remove(t) })
	return p
}

// pods runs one pod under each handler, for tests that need nothing of their own of it.
func (n *node) pods(t *testing.T, mods ...func(*cri.PodSandboxConfig)) map[string]*pod {
	t.Helper()
	all := make(map[string]*pod)
	for _, h := range handlers {
		all[h] = n.pod(t, h, mods...)
	}
	return all
}

func (p *pod) stop(t *testing.T) {
	t.Helper()
	if _, err := p.runtime.StopPodSandbox(within(t), &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Errorf("stop pod: %v", err)
	}
}

func (p *pod) remove(t *testing.T) {
	t.Helper()
	p.stop(t)
	if _, err := p.runtime.RemovePodSandbox(within(t), &cri.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Errorf("remove pod: %v", err)
	}
	p.removeCgroup(t)
}

// removeCgroup removes the pod's cgroup, which a kubelet makes and removes; that fails while a container's is left in it.
func (p *pod) removeCgroup(t *testing.T) {
	t.Helper()
	parent := p.config.Linux.CgroupParent
	if parent == "" {
		return
	}
	pattern := "/sys/fs/cgroup/*" + parent // one for each hierarchy
	if unified() {
		pattern = "/sys/fs/cgroup" + parent
	}
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		eventually(t, "the pod's cgroup "+dir+" is empty", func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, os.ErrNotExist)
		})
	}
}

func (p *pod) status(t *testing.T) *cri.PodSandboxStatus {
	t.Helper()
	resp, err := p.runtime.PodSandboxStatus(within(t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatalf("status of pod: %v", err)
	}
	return resp.Status
}

// mayBePrivileged lets containers of a pod be privileged; those that are not are like anywhere else.
func mayBePrivileged(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true }

// namespaces sets how a pod shares its namespaces.
func namespaces(network, pid, ipc cri.NamespaceMode) func(*cri.PodSandboxConfig) {
	return func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Network: network, Pid: pid, Ipc: ipc}
		if network == cri.NamespaceMode_NODE {
			c.Hostname = ""
		}
	}
}
