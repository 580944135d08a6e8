package cri

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSandbox takes a pod through its life and looks at everything CRI says about it.
func TestSandbox(t *testing.T) {
	n := newNode(t)

	t.Run("life", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler, func(c *cri.PodSandboxConfig) { c.Annotations["note"] = "kept" })
			s := p.status(t)
			addr, err := netip.ParseAddr(s.Network.Ip)
			if err != nil || !netip.MustParsePrefix("10.88.0.0/16").Contains(addr) {
				t.Errorf("address %q: %v", s.Network.Ip, err)
			}
			if s.RuntimeHandler != handler || s.State != cri.PodSandboxState_SANDBOX_READY || s.CreatedAt == 0 ||
				s.Annotations["note"] != "kept" || s.Labels["app"] != p.config.Metadata.Name {
				t.Errorf("status: %v", s)
			}
			listed := func(f *cri.PodSandboxFilter) int {
				resp, err := n.runtime.ListPodSandbox(within(t), &cri.ListPodSandboxRequest{Filter: f})
				if err != nil {
					t.Fatal(err)
				}
				return len(resp.Items)
			}
			byLabel := &cri.PodSandboxFilter{LabelSelector: s.Labels}
			ready := &cri.PodSandboxFilter{Id: p.id, State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}
			out := fmt.Sprintln(listed(byLabel), listed(ready))
			c := p.start(t, sleeper())
			p.stop(t)
			p.stop(t) // again: kubelet does
			if s := c.status(t); s.State != cri.ContainerState_CONTAINER_EXITED {
				t.Errorf("container of a stopped pod: %v", s.State)
			}
			out += fmt.Sprintln(p.status(t).State, listed(byLabel), listed(ready))
			p.remove(t)
			p.remove(t)
			_, err = n.runtime.PodSandboxStatus(within(t), &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
			return out + n.anonymous(fmt.Sprintln(listed(byLabel), err))
		})
	})

	t.Run("hostname and dns", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler, func(c *cri.PodSandboxConfig) {
				c.Hostname = "named"
				c.DnsConfig = &cri.DNSConfig{Servers: []string{"10.10.10.10"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:5"}}
			})
			out := p.run(t, shell("hostname; echo $HOSTNAME; cat /etc/hostname /etc/resolv.conf"))
			if !strings.HasPrefix(out, "named\nnamed\nnamed\nsearch a.test b.test\nnameserver 10.10.10.10\n") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("sysctls", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler, func(c *cri.PodSandboxConfig) {
				c.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "2000 3000", "kernel.shm_rmid_forced": "1", "kernel.msgmax": "9000"}
			})
			out := p.run(t, shell("cd /proc/sys; cat net/ipv4/ip_local_port_range kernel/shm_rmid_forced kernel/msgmax net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range"))
			if !strings.HasPrefix(out, "2000\t3000\n1\n9000\n") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("unsafe sysctl", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			config := n.podConfig(t, func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} })
			_, err := n.runtime.RunPodSandbox(within(t), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
			if err == nil || !strings.Contains(err.Error(), "vm.swappiness") {
				t.Errorf("got %v", err)
			}
			return ""
		})
	})

	t.Run("unknown handler", func(t *testing.T) {
		_, err := n.runtime.RunPodSandbox(within(t), &cri.RunPodSandboxRequest{Config: n.podConfig(t), RuntimeHandler: "no-such"})
		if err == nil {
			t.Error("a pod with an unknown handler runs")
		}
	})

	t.Run("host port", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler, func(c *cri.PodSandboxConfig) {
				c.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 8080, HostPort: 18080}}
			})
			c := p.start(t, probe("serve"))
			c.prints(t, "ready")
			body, err := n.get("10.88.0.1:18080", "/")
			if err != nil {
				t.Errorf("by the host's port: %v", err)
			}
			return body
		})
	})
}

// TestNamespaces proves which namespaces a container shares with its pod and with the node.
func TestNamespaces(t *testing.T) {
	n := newNode(t)
	const (
		own  = cri.NamespaceMode_CONTAINER
		pods = cri.NamespaceMode_POD
		host = cri.NamespaceMode_NODE
	)
	for _, mode := range []struct {
		name              string
		network, pid, ipc cri.NamespaceMode
		want              string // of net, pid, ipc, uts: who shares it
	}{
		{"own pid", pods, own, pods, "net: pod, pid: nobody, ipc: pod, uts: pod, mnt: nobody"},
		{"pod pid", pods, pods, pods, "net: pod, pid: pod, ipc: pod, uts: pod, mnt: nobody"},
		{"host pid", pods, host, pods, "net: pod, pid: node, ipc: pod, uts: pod, mnt: nobody"},
		{"host ipc", pods, own, host, "net: pod, pid: nobody, ipc: node, uts: pod, mnt: nobody"},
		{"host network", host, own, pods, "net: node, pid: nobody, ipc: pod, uts: node, mnt: nobody"},
		{"host all", host, host, host, "net: node, pid: node, ipc: node, uts: node, mnt: nobody"},
	} {
		t.Run(mode.name, func(t *testing.T) {
			underBoth(t, func(t *testing.T, handler string) string {
				p := n.pod(t, handler, namespaces(mode.network, mode.pid, mode.ipc))
				a, b := p.start(t, sleeper()), p.start(t, sleeper())
				got := n.sharing(t, a, b)
				if got != mode.want {
					t.Errorf("%s, want %s", got, mode.want)
				}
				return got + "\n" + a.exec(t, "sh", "-c", "hostname | grep -c pod-")
			})
		})
	}

	t.Run("target", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			app := p.start(t, sleeper())
			debug := p.start(t, shell("until ps -o args | grep -q '^sleep 100[0]'; do sleep 0.1; done; echo sees it; exec sleep 1000"),
				security(func(s *cri.LinuxContainerSecurityContext) {
					s.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: app.id}
				}))
			debug.prints(t, "sees it")
			return n.sharing(t, app, debug)
		})
	})
}

// TestUserNamespace runs a pod whose root is nobody outside, as `hostUsers: false` asks for.
func TestUserNamespace(t *testing.T) {
	n := newNode(t)
	underBoth(t, func(t *testing.T, handler string) string {
		mapping := []*cri.IDMapping{{HostId: 200000, ContainerId: 0, Length: 65536}}
		p := n.pod(t, handler, func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping, Gids: mapping}
		})
		c := p.start(t, sleeper())
		out := c.exec(t, "sh", "-c", "exec 2>&1; id -u; cat /proc/self/uid_map; touch /made; stat -c %u /made; mount -t tmpfs none /tmp; hostname x; grep Seccomp: /proc/self/status")
		var outside int
		for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/status", c.pid(t)))) {
			_, _ = fmt.Sscanf(line, "Uid: %d", &outside)
		}
		if outside != 200000 || !strings.HasPrefix(out, "0\n") {
			t.Errorf("uid outside %d, inside %s", outside, out)
		}
		return out
	})
}

// sharing tells for each kind of namespace of a with whom it is shared: its neighbour b, or the node's processes.
func (n *node) sharing(t *testing.T, a, b *container) string {
	t.Helper()
	var node map[string]string
	if err := n.InNetwork(func() (err error) {
		node, err = namespacesOf("/proc/thread-self")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	of := func(c *container) map[string]string {
		ns, err := namespacesOf(fmt.Sprintf("/proc/%d", c.pid(t)))
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	first, second := of(a), of(b)
	var parts []string
	for _, kind := range kinds {
		who := "nobody"
		switch first[kind] {
		case node[kind]:
			who = "node"
		case second[kind]:
			who = "pod"
		}
		parts = append(parts, kind+": "+who)
	}
	return strings.Join(parts, ", ")
}

var kinds = []string{"net", "pid", "ipc", "uts", "mnt"}

func namespacesOf(proc string) (map[string]string, error) {
	all := make(map[string]string)
	for _, kind := range kinds {
		link, err := os.Readlink(proc + "/ns/" + kind)
		if err != nil {
			return nil, err
		}
		all[kind] = link
	}
	return all, nil
}
