package cri

import (
	"fmt"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestExecSync runs commands in a container without streaming: what probes and lifecycle hooks of a kubelet do.
func TestExecSync(t *testing.T) {
	n := newNode(t)
	underBoth(t, func(t *testing.T, handler string) string {
		p := n.pod(t, handler)
		c := p.start(t, sleeper(), func(c *cri.ContainerConfig) {
			c.WorkingDir = "/tmp"
			c.Envs = []*cri.KeyValue{{Key: "COLOUR", Value: []byte("blue")}}
		})
		c.prints(t, "ready")
		var out strings.Builder
		for _, args := range [][]string{
			{"sh", "-c", "echo out; echo err >&2; exit 7"},
			{"sh", "-c", "pwd; echo $COLOUR; id -u"},
			{"false"}, {"true"},
			{"no-such-program"},
			{"/etc/passwd"}, // not executable
			{"sh", "-c", "kill -9 $$"},
			{"sh", "-c", "cat; echo end"}, // no standard input: its end comes at once
		} {
			fmt.Fprintf(&out, "%s: %s", args, c.exec(t, args...))
		}
		if !strings.HasPrefix(out.String(), "[sh -c echo out; echo err >&2; exit 7]: out\nerr\nexit 7\n") {
			t.Errorf("got %s", out.String())
		}

		_, err := c.runtime.ExecSync(within(t), &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sleep", "3000"}, Timeout: 1})
		fmt.Fprintln(&out, c.anonymous(fmt.Sprint(err)))
		if err == nil || !strings.Contains(err.Error(), "DeadlineExceeded") {
			t.Errorf("timeout: %v", err)
		}
		eventually(t, "the command that took too long is gone", func() bool {
			return c.exec(t, "sh", "-c", "ps -o args | grep -c '^sleep 3000'") == "0\nexit 1\n"
		})

		resp, err := c.runtime.ExecSync(within(t), &cri.ExecSyncRequest{
			ContainerId: c.id, Cmd: []string{"sh", "-c", "yes | head -c 10000000"}, Timeout: 60})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.Stdout) != 10000000 { // CRI's limit, 16 MiB, does not fit into one of its own messages
			t.Errorf("%d bytes of output, want 10000000", len(resp.Stdout))
		}
		return out.String()
	})

	t.Run("ended", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			p := n.pod(t, handler)
			c := p.start(t, shell("exit 0"))
			c.ended(t)
			return c.exec(t, "true")
		})
	})
}
