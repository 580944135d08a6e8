package cri

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestLogs checks the log files that kubelets read: format, both streams, lines without an end and very long ones,
// terminals, and rotation.
func TestLogs(t *testing.T) {
	n := newNode(t)
	line := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d) (stdout|stderr) [FP] `)
	pods := n.pods(t)
	// shape is a log without its times.
	shape := func(t *testing.T, log string) string {
		var out strings.Builder
		for l := range strings.Lines(log) {
			if !line.MatchString(l) {
				t.Errorf("not a log line: %q", l)
				continue
			}
			_, rest, _ := strings.Cut(l, " ")
			if len(rest) > 100 {
				rest = fmt.Sprintf("%s… %d bytes\n", rest[:20], len(rest))
			}
			out.WriteString(rest)
		}
		return out.String()
	}

	t.Run("format", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, shell("echo one; echo; printf 'no end'; head -c 40000 /dev/zero | tr '\\0' x; echo; printf last"))
			c.ended(t)
			out := shape(t, readFile(t, c.log))
			if !strings.HasPrefix(out, "stdout F one\nstdout F \n") || !strings.Contains(out, "stdout P ") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("stderr", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, shell("echo wrong >&2; exit 1"))
			c.ended(t)
			return shape(t, readFile(t, c.log))
		})
	})

	t.Run("terminal", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, shell("tty; echo err >&2"), func(c *cri.ContainerConfig) { c.Tty = true })
			c.ended(t)
			out := shape(t, readFile(t, c.log))
			if !strings.Contains(out, "stdout F /dev/pts/0") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("reopen", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, shell("echo before; until [ -e /tmp/go ]; do sleep 0.05; done; echo after"))
			c.prints(t, "before")
			if err := os.Rename(c.log, c.log+".1"); err != nil {
				t.Fatal(err)
			}
			if _, err := n.runtime.ReopenContainerLog(within(t), &cri.ReopenContainerLogRequest{ContainerId: c.id}); err != nil {
				t.Fatal(err)
			}
			c.exec(t, "touch", "/tmp/go")
			c.ended(t)
			_, err := n.runtime.ReopenContainerLog(within(t), &cri.ReopenContainerLogRequest{ContainerId: c.id})
			out := shape(t, readFile(t, c.log+".1")) + "--\n" + shape(t, readFile(t, c.log)) + c.anonymous(fmt.Sprint(err))
			if !strings.HasPrefix(out, "stdout F before\n--\nstdout F after\n") {
				t.Errorf("got %s", out)
			}
			return out
		})
	})

	t.Run("much", func(t *testing.T) {
		underBoth(t, func(t *testing.T, handler string) string {
			c := pods[handler].start(t, shell("seq 1 20000"))
			c.ended(t)
			out := c.output(t)
			if strings.Count(out, "\n") != 20000 || !strings.HasSuffix(out, "\n20000\n") {
				t.Errorf("%d lines, the last %q", strings.Count(out, "\n"), out[max(0, len(out)-20):])
			}
			return ""
		})
	})
}
