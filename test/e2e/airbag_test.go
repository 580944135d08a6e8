package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// airbagConfig has raised limits, a guardrail, and bounds that few runs make hard ones.
const airbagConfig = `
sample = "100ms"
[airbag]
enabled = true
reserve = "64Mi"
calm = "3s"
[guardrails]
memory = { max = "512Mi" }
`

// inflater is a container of the program that takes memory as it is told; all of them are one workload.
type inflater struct {
	h     *host
	id    string
	dir   string
	steps int
}

func (h *host) inflater(t testing.TB, flags ...string) *inflater {
	t.Helper()
	p := &inflater{h: h, dir: t.TempDir()}
	c := container{image: "grower", args: []string{"/grower", "/m"}, flags: append([]string{"--mount=type=bind,src=" + p.dir + ",dst=/m,options=rbind:rw"}, flags...)}
	p.id = h.start(t, c)
	return p
}

// tell gives the program its next step.
func (p *inflater) tell(t testing.TB, step string) {
	t.Helper()
	p.steps++
	if err := os.WriteFile(filepath.Join(p.dir, strconv.Itoa(p.steps)), []byte(step+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// done reports whether the program has done its last step.
func (p *inflater) done() bool {
	_, err := os.Stat(filepath.Join(p.dir, strconv.Itoa(p.steps)+".done"))
	return err == nil
}

// grow lets the program take so many MiB, and waits until it has.
func (p *inflater) grow(t testing.TB, mib int, perSecond float64) {
	t.Helper()
	p.tell(t, fmt.Sprintf("%d %g", mib<<20, perSecond))
	eventually(t, fmt.Sprintf("%s takes %d MiB more", p.id, mib), func() bool { return p.done() || !p.lives() })
	if !p.lives() {
		t.Fatalf("%s was killed\n%+v", p.id, p.h.events(t, p.id))
	}
}

// lives reports whether the program runs.
func (p *inflater) lives() bool {
	r := p.h.Ctr("task", "ls")
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == p.id {
			return f[2] == "RUNNING"
		}
	}
	return false
}

// end lets the program end, and its run become history.
func (p *inflater) end(t testing.TB) {
	t.Helper()
	p.tell(t, "end")
	eventually(t, p.id+" ends", func() bool { return !p.lives() })
	p.h.remove(p.id)
}

// teach lets the workload run as often as makes its bound a hard limit, each time with so many MiB in use.
func (h *host) teach(t testing.TB, mib int) {
	t.Helper()
	for range 5 {
		p := h.inflater(t)
		p.grow(t, mib, 0)
		time.Sleep(300 * time.Millisecond) // for a sample
		p.end(t)
	}
}

// said are the messages of a container's events of a kind.
func (h *host) said(t testing.TB, id, kind string) (out []string) {
	t.Helper()
	for _, e := range h.events(t, id) {
		if e.Kind == kind {
			out = append(out, e.Message)
		}
	}
	return out
}

// TestAirbag grows containers beyond what their history predicts.
func TestAirbag(t *testing.T) {
	h := newHost(t, harness.WithImages("grower"), harness.WithConfig(airbagConfig))
	h.teach(t, 8)
	p := h.inflater(t)
	t.Logf("%s", h.Forefend("explain", p.id).Stdout)
}
