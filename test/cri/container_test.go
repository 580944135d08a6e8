package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"forefend.dev/forefend/test/e2e/harness"
)

// container is a container of a pod.
type container struct {
	*pod
	id  string
	log string
}

type containerMod = func(*cri.ContainerConfig)

// create creates a container and removes it when the test ends. What kubelet always sends is sent.
func (p *pod) create(t *testing.T, mods ...containerMod) (*container, error) {
	t.Helper()
	name := fmt.Sprintf("c-%d", p.next.Add(1))
	config := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: name},
		Image:       &cri.ImageSpec{Image: harness.Image("busybox"), UserSpecifiedImage: harness.Image("busybox")},
		LogPath:     name + ".log",
		Labels:      map[string]string{"part": name},
		Annotations: map[string]string{},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{CpuShares: 2},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
				MaskedPaths:      []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
				ReadonlyPaths:    []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
	for _, m := range mods {
		m(config)
	}
	resp, err := p.runtime.CreateContainer(within(t), &cri.CreateContainerRequest{
		PodSandboxId: p.id, Config: config, SandboxConfig: p.config,
	})
	if err != nil {
		return nil, err
	}
	c := &container{pod: p, id: resp.ContainerId, log: filepath.Join(p.config.LogDirectory, config.LogPath)}
	t.Cleanup(func() {
		if _, err := p.runtime.RemoveContainer(within(t), &cri.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Errorf("remove container: %v", err)
		}
	})
	return c, nil
}

// start creates and starts a container.
func (p *pod) start(t *testing.T, mods ...containerMod) *container {
	t.Helper()
	c, err := p.create(t, mods...)
	if err != nil {
		t.Fatalf("create container: %v", err)
	}
	if err := c.begin(t); err != nil {
		t.Fatalf("start container: %v", err)
	}
	return c
}

func (c *container) begin(t *testing.T) error {
	t.Helper()
	_, err := c.runtime.StartContainer(within(t), &cri.StartContainerRequest{ContainerId: c.id})
	return err
}

// run runs a container to its end and returns what it printed, with a last line for how it ended: the container's
// exit, or the step that refused it, in words both runtimes have to share.
func (p *pod) run(t *testing.T, mods ...containerMod) string {
	t.Helper()
	c, err := p.create(t, mods...)
	if err != nil {
		return fmt.Sprintf("create: %s\n", p.anonymous(err.Error()))
	}
	if err := c.begin(t); err != nil {
		return fmt.Sprintf("start: %s\n", c.anonymous(err.Error()))
	}
	return c.end(t)
}

// end waits until the container has ended and returns its output with the exit code.
func (c *container) end(t *testing.T) string {
	t.Helper()
	s := c.ended(t)
	return fmt.Sprintf("%sexit %d\n", c.output(t), s.ExitCode)
}

func (c *container) ended(t *testing.T) *cri.ContainerStatus {
	t.Helper()
	var s *cri.ContainerStatus
	eventually(t, "the container ends", func() bool {
		s = c.status(t)
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return s
}

func (c *container) status(t *testing.T) *cri.ContainerStatus {
	t.Helper()
	resp, err := c.runtime.ContainerStatus(within(t), &cri.ContainerStatusRequest{ContainerId: c.id})
	if err != nil {
		t.Fatalf("status of container: %v", err)
	}
	return resp.Status
}

// output is what the container wrote so far, from its log in CRI's format: time, stream, F or P, text.
func (c *container) output(t *testing.T) string {
	t.Helper()
	body, err := os.ReadFile(c.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(body)) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) != 4 {
			t.Fatalf("log line %q", line)
		}
		out.WriteString(parts[3])
	}
	return out.String()
}

// prints waits until the container has written text.
func (c *container) prints(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the container prints %q", text), func() bool { return strings.Contains(c.output(t), text) })
}

// exec runs a command in the container and returns both its streams and how it ended.
func (c *container) exec(t *testing.T, command ...string) string {
	t.Helper()
	resp, err := c.runtime.ExecSync(within(t), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: command, Timeout: 60})
	if err != nil {
		return fmt.Sprintf("exec: %s\n", c.anonymous(err.Error()))
	}
	return fmt.Sprintf("%s%sexit %d\n", resp.Stdout, resp.Stderr, resp.ExitCode)
}

func (c *container) kill(t *testing.T, grace int64) {
	t.Helper()
	if _, err := c.runtime.StopContainer(within(t), &cri.StopContainerRequest{ContainerId: c.id, Timeout: grace}); err != nil {
		t.Errorf("stop container: %v", err)
	}
}

// command sets what runs.
func command(args ...string) containerMod {
	return func(c *cri.ContainerConfig) { c.Command = args }
}

// shell runs a script.
func shell(script string) containerMod { return command("sh", "-c", script) }

// sleeper runs until it is stopped, and stops at once when asked.
func sleeper() containerMod {
	return shell(`trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done`)
}

// security changes the security context.
func security(f func(*cri.LinuxContainerSecurityContext)) containerMod {
	return func(c *cri.ContainerConfig) { f(c.Linux.SecurityContext) }
}

// probe runs the static test binary, which has to come from the image static.
func probe(args ...string) containerMod {
	return func(c *cri.ContainerConfig) {
		c.Image = &cri.ImageSpec{Image: harness.Image("static")}
		c.Command = append([]string{"/probe"}, args...)
	}
}

// bind mounts a path of the machine.
func bind(host, inside string, mods ...func(*cri.Mount)) containerMod {
	return func(c *cri.ContainerConfig) {
		m := &cri.Mount{HostPath: host, ContainerPath: inside}
		for _, f := range mods {
			f(m)
		}
		c.Mounts = append(c.Mounts, m)
	}
}
