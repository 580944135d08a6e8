package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestEngines runs a pod under the CRI of every containerd in use, configured with the file of deploy/kubernetes for it.
func TestEngines(t *testing.T) {
	for _, version := range harness.Engines() {
		t.Run(version, func(t *testing.T) {
			n := newNode(t, harness.WithContainerd(version))
			underBoth(t, func(t *testing.T, handler string) string {
				p := n.pod(t, handler, podAnnotated("pids", "60"))
				// containerd 1.6 loses what a container wrote that ends at once, under runc as well.
				short := p.start(t, shell("echo ran; until [ -e /tmp/go ]; do sleep 0.05; done; exit 3"))
				short.prints(t, "ran")
				out := short.exec(t, "touch", "/tmp/go") + short.end(t)
				c := p.start(t, sleeper(), func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 })
				out += c.exec(t, "sh", "-c", "echo in; exit 4")
				if _, err := n.runtime.UpdateContainerResources(within(t), &cri.UpdateContainerResourcesRequest{
					ContainerId: c.id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 128 << 20}}); err != nil {
					t.Error(err)
				}
				out += c.cgroup(t, "memory", "memory.limit_in_bytes", "memory.max") + "\n"
				eventually(t, "statistics", func() bool {
					resp, err := n.runtime.ContainerStats(within(t), &cri.ContainerStatsRequest{ContainerId: c.id})
					return err == nil && resp.Stats.GetMemory().GetWorkingSetBytes().GetValue() > 0
				})
				if pids := c.cgroup(t, "pids", "pids.max", "pids.max"); handler == forefend && pids != "60" {
					t.Errorf("pids %s: the pod's annotation had no effect", pids)
				}
				if shims := p.shims(t, handler); len(shims) != 1 {
					t.Errorf("shims of the pod: %v", shims)
				}
				c.kill(t, 10)
				return out + c.end(t)
			})
		})
	}
}

// TestRuntimeOptions proves that options of the handler, which CRI hands to Forefend as TOML and to runc by type, mean
// the same to both: where runc's state is, and the cgroup driver.
func TestRuntimeOptions(t *testing.T) {
	var tables strings.Builder
	for handler, runtimeType := range map[string]string{stock: "io.containerd.runc.v2", forefend: "io.containerd.forefend.v1"} {
		for name, option := range map[string]string{"root": "Root = '/run/ff-%s-root'", "systemd": "SystemdCgroup = true", "binary": "BinaryName = '/no/such/runc-%s'"} {
			table := "containerd.runtimes." + handler + "-" + name
			if strings.Contains(option, "%s") {
				option = fmt.Sprintf(option, handler)
			}
			fmt.Fprintf(&tables, "%s\nruntime_type = '%s'\n%s\n%s\n", harness.CRITable("", table), runtimeType, harness.CRITable("", table+".options"), option)
		}
	}
	n := newNode(t, harness.WithContainerdConfig(tables.String()))

	t.Run("root", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			root := "/run/ff-" + handler + "-root"
			t.Cleanup(func() { _ = os.RemoveAll(root) }) // after the pod
			p := n.pod(t, handler+"-root")
			c := p.start(t, sleeper())
			if _, err := os.Stat(filepath.Join(root, "k8s.io", c.id, "state.json")); err != nil {
				t.Errorf("runc's state is not where the option says: %v", err)
			}
			return c.exec(t, "echo", "in")
		})
	})

	for _, option := range []struct{ name, want string }{{"binary", "/no/such/runc-"}, {"systemd", ":.*:"}} {
		t.Run(option.name, func(t *testing.T) {
			if option.name == "systemd" {
				if _, err := os.Stat("/run/systemd/system"); err == nil {
					t.Skip("systemd runs here: the driver works, which a node's kubelet tests")
				}
			}
			underBoth(t, func(t *testing.T, handler string) string {
				config := n.podConfig(t, func(c *cri.PodSandboxConfig) {
					if option.name == "systemd" {
						c.Linux.CgroupParent = "" // as its default: what follows is the driver's own doing
					}
				})
				_, err := n.runtime.RunPodSandbox(within(t), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler + "-" + option.name})
				if err == nil {
					t.Fatal("a pod whose options cannot work runs")
				}
				if !regexp.MustCompile(option.want).MatchString(err.Error()) {
					t.Errorf("got %v, want %s", err, option.want)
				}
				return n.anonymous(strings.ReplaceAll(err.Error(), "runc-"+handler, "RUNC"))
			})
		})
	}
}

// TestOverhead holds the RuntimeClass to what it says a pod costs: the memory of its shim, and the handler's name.
func TestOverhead(t *testing.T) {
	n := newNode(t)
	manifest := readFile(t, filepath.Join(filepath.Dir(n.BinDir), "deploy", "kubernetes", "runtimeclass.yaml"))
	memory := regexp.MustCompile(`(?m)^    memory: (\d+)Mi$`).FindStringSubmatch(manifest)
	if memory == nil || !strings.Contains(manifest, "\nhandler: "+forefend+"\n") {
		t.Fatalf("no memory overhead, or another handler: %s", manifest)
	}
	limit, err := strconv.Atoi(memory[1])
	if err != nil {
		t.Fatal(err)
	}
	const many = 10 // shims share what is the same in all of them, as on a node
	var pods []*pod
	for range many {
		p := n.pod(t, forefend)
		p.start(t, sleeper()).prints(t, "ready")
		pods = append(pods, p)
	}
	eventually(t, fmt.Sprintf("a pod's shim takes at most %d MiB", limit), func() bool { // a young one collects garbage late
		var sizes []int
		for _, p := range pods {
			for _, pid := range p.shims(t, forefend) {
				sizes = append(sizes, pss(t, pid))
			}
		}
		slices.Sort(sizes)
		return len(sizes) == many && sizes[many/2] <= limit<<10
	})
}

// pss is the proportional set size of a process in KiB.
func pss(t *testing.T, pid int) int {
	t.Helper()
	for line := range strings.Lines(readFile(t, fmt.Sprintf("/proc/%d/smaps_rollup", pid))) {
		var kib int
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
			return kib
		}
	}
	t.Fatalf("no Pss of process %d", pid)
	return 0
}
