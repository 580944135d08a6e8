package cri

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// annotated sets an annotation of a container, as a container's own.
func annotated(name, value string) containerMod {
	return func(c *cri.ContainerConfig) { c.Annotations["forefend.dev/"+name] = value }
}

// podAnnotated sets it on the pod, where people write it in Kubernetes; containerd hands it on to all containers.
func podAnnotated(name, value string) func(*cri.PodSandboxConfig) {
	return func(c *cri.PodSandboxConfig) { c.Annotations["forefend.dev/"+name] = value }
}

// TestAnnotations proves that forefend.dev annotations reach containers through CRI and take effect.
func TestAnnotations(t *testing.T) {
	n := newNode(t)
	plain := n.pod(t, forefend)

	for _, where := range []struct {
		name string
		set  func(name, value string) ([]func(*cri.PodSandboxConfig), []containerMod)
	}{
		{"of the container", func(name, value string) ([]func(*cri.PodSandboxConfig), []containerMod) {
			return nil, []containerMod{annotated(name, value)}
		}},
		{"of the pod", func(name, value string) ([]func(*cri.PodSandboxConfig), []containerMod) {
			return []func(*cri.PodSandboxConfig){podAnnotated(name, value)}, nil
		}},
	} {
		t.Run(where.name, func(t *testing.T) {
			for _, tc := range []struct{ name, value, script, want string }{
				{"memory", "64Mi", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max", "67108864\n"},
				{"pids", "50", "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max", "50\n"},
				{"syscalls.deny", "mkdir,mkdirat", "mkdir /tmp/d", "mkdir: can't create directory '/tmp/d': Operation not permitted\n"},
				{"capabilities.drop", "CHOWN", "chown 1 /tmp", "chown: /tmp: Operation not permitted\n"},
				{"no_new_privileges", "on", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
				{"readonly_root", "on", "touch /x", "touch: /x: Read-only file system\n"},
				{"seccomp", "profile", "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"},
				{"masked_paths", "/etc/passwd", "wc -c < /etc/passwd", "0\n"},
			} {
				t.Run(tc.name, func(t *testing.T) {
					onPod, onContainer := where.set(tc.name, tc.value)
					p := plain
					if onPod != nil {
						p = n.pod(t, forefend, onPod...)
					}
					if out := p.run(t, append(onContainer, shell("exec 2>&1; "+tc.script))...); !strings.HasPrefix(out, tc.want) {
						t.Errorf("got %q, want %q", out, tc.want)
					}
				})
			}
		})
	}

	t.Run("malformed", func(t *testing.T) {
		out := plain.run(t, annotated("memory", "much"), shell("true"))
		if !strings.Contains(out, "forefend.dev/memory") {
			t.Errorf("got %s", out)
		}
	})

	t.Run("loosening is not granted", func(t *testing.T) {
		out := plain.run(t, annotated("capabilities.add", "SYS_ADMIN"), shell("grep CapBnd /proc/self/status"))
		if !strings.HasPrefix(out, "CapBnd:\t00000000a80425fb\n") {
			t.Errorf("got %s", out)
		}
	})

	t.Run("explain", func(t *testing.T) {
		p := n.pod(t, forefend, podAnnotated("user", "alice"))
		c := p.start(t, sleeper(), annotated("pids", "77"))
		r := n.Forefend("explain", "--json", c.id)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		if !json.Valid([]byte(r.Stdout)) || !strings.Contains(r.Stdout, "annotation forefend.dev/pids") || !strings.Contains(r.Stdout, `"user": "alice"`) {
			t.Errorf("explain: %s", r.Stdout)
		}
	})
}

// TestSite proves that a node's operator can have pods watched that ask for no profile, by Kubernetes namespace.
func TestSite(t *testing.T) {
	n := newNode(t, harness.WithConfig(`
[[profile]]
name = "watched"
groups = ["production"]
defaults = { seccomp = "profile" }
`))
	for _, tc := range []struct{ namespace, want string }{{"production", "2"}, {"default", "0"}} {
		t.Run(tc.namespace, func(t *testing.T) {
			p := n.pod(t, forefend, func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = tc.namespace })
			if out := p.run(t, shell("grep Seccomp: /proc/self/status")); out != fmt.Sprintf("Seccomp:\t%s\nexit 0\n", tc.want) {
				t.Errorf("got %s", out)
			}
		})
	}
}
