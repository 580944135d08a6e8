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
checkpoint = "1s"
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
	p := h.limited(t)
	predicted := h.predictedLimit(t, p.id)
	t.Run("follows", func(t *testing.T) { limitFollows(t, p, predicted) })
	t.Run("calm", func(t *testing.T) { limitIsLowered(t, p, predicted) })
	t.Run("guardrail", func(t *testing.T) { guardrailHolds(t, p) })
}

// limited starts one that has a hard limit. On a slow machine a run that was taught may have ended before its image was known, and counts
// for nothing: it takes as many more.
func (h *host) limited(t testing.TB, flags ...string) *inflater {
	t.Helper()
	for tries := 0; ; tries++ {
		p := h.inflater(t, flags...)
		if f, _ := h.explain(t, p.id).find("memory"); f.Author == "prediction" || tries == 5 {
			return p
		}
		p.grow(t, 8, 0)
		time.Sleep(300 * time.Millisecond) // for a sample
		p.end(t)
	}
}

// predictedLimit is the hard memory limit that a container starts with because of its history, in bytes.
func (h *host) predictedLimit(t testing.TB, id string) int64 {
	t.Helper()
	d := h.explain(t, id)
	f, ok := d.find("memory")
	limit := h.limit(t, id, "memory")
	if !ok || f.Author != "prediction" || limit < 64<<20 || limit > 128<<20 {
		t.Fatalf("memory is %+v, the kernel has %d MiB; notes: %q", f, limit>>20, d.Notes)
	}
	return limit
}

// limitFollows lets a container grow to four times its predicted limit: it is not killed, its limit keeps the headroom, and all
// that is told of it agrees.
func limitFollows(t *testing.T, p *inflater, predicted int64) {
	h := p.h
	p.grow(t, int(4*predicted>>20), 500e6)
	const least, most = 32 << 20, 300 << 20 // half a headroom, and that at 3 GB/s
	var limit int64
	eventually(t, "the decision says what the kernel has", func() bool {
		limit = h.limit(t, p.id, "memory")
		f, _ := h.explain(t, p.id).find("memory")
		return f.Author == "prediction" && f.Source == "airbag" && f.Text == mebibytes(limit)
	})
	if room := limit - 4*predicted; room < least || room > most {
		t.Errorf("with %d MiB in use the limit is %d MiB", 4*predicted>>20, limit>>20)
	}
	var raised []string
	eventually(t, "an event for each raise", func() bool {
		raised = h.said(t, p.id, "raised")
		return len(raised) > 0 && strings.Contains(raised[len(raised)-1], "-> "+mebibytes(limit))
	})
	if d := h.explain(t, p.id); d.Revision != 1+len(raised) || len(h.said(t, p.id, "oom")) > 0 {
		t.Errorf("revision %d after %d raises: %q", d.Revision, len(raised), raised)
	}
	text := h.Forefend("explain", p.id).Stdout
	for _, want := range []string{"raised before it is reached", "512 MiB, config.toml [guardrails]", "airbag: memory limit"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
			t.Errorf("explain does not say %q:\n%s", want, text)
		}
	}
}

// limitIsLowered lets it give the memory back: after a while of calm its limit is as it was predicted.
func limitIsLowered(t *testing.T, p *inflater, predicted int64) {
	h := p.h
	p.tell(t, "free")
	eventually(t, "the limit is as predicted again", func() bool { return h.limit(t, p.id, "memory") == predicted })
	var said []string
	eventually(t, "an event of it", func() bool {
		said = h.said(t, p.id, "updated")
		return len(said) > 0 && strings.Contains(said[len(said)-1], "prediction (airbag), calm: at most ")
	})
	if f, _ := h.explain(t, p.id).find("memory"); f.Text != mebibytes(predicted) {
		t.Errorf("memory is %+v", f)
	}
	p.grow(t, int(predicted>>20), 200e6) // and it is followed anew
}

// guardrailHolds lets it grow to the site's guardrail, where it gets what the kernel gives anyone.
func guardrailHolds(t *testing.T, p *inflater) {
	h := p.h
	p.tell(t, fmt.Sprintf("%d %g", 600<<20, 500e6))
	eventually(t, "the kernel kills it at the guardrail", func() bool { return !p.lives() })
	if p.done() {
		t.Error("it has more than the guardrail allows")
	}
	if !within(time.Minute, func() bool {
		raised := h.said(t, p.id, "raised")
		at := raised[len(raised)-1]
		return strings.Contains(at, "-> 512 MiB") && strings.Contains(at, "the ceiling is 512 MiB (config.toml [guardrails])") && len(h.said(t, p.id, "oom")) > 0
	}) {
		t.Errorf("the end of raising or the kill is not told:\n%+v", h.events(t, p.id))
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// TestAirbagHolds raises the risk of a container: its limit stays where it is as long as growth is an anomaly, an event tells of
// the growth, and once the risk has fallen the limit follows.
func TestAirbagHolds(t *testing.T) {
	feeds := t.TempDir()
	const pattern = `[[technique]]
id = "T1611"
name = "Escape to Host"
severity = 0.95
[[technique.rule]]
confidence = 0.95
why = "it changed its root"
any = ["chroot"]
`
	if err := os.WriteFile(filepath.Join(feeds, "patterns.toml"), []byte(pattern), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, harness.WithImages("grower"), harness.WithConfig(airbagConfig+fmt.Sprintf("[threats]\nfeeds = [%q]\n[safeguards]\ncalm = \"3s\"\nchanges_per_minute = 10\n", feeds)))
	h.teach(t, 8)
	p := h.limited(t, h.withProbe())
	predicted := h.predictedLimit(t, p.id)
	attacked := time.Now() // growth is held for calm at least from then on, and by how much longer is not known
	h.exec(p.id, "/probe", "sys", "chroot", "/")
	eventually(t, "growth is an anomaly", func() bool {
		return strings.Contains(strings.Join(h.said(t, p.id, "updated"), " "), "growth of memory is held: the risk is ")
	})
	p.grow(t, int(predicted>>20)-24, 0)
	eventually(t, "an event of growth that is held", func() bool {
		return strings.Contains(strings.Join(h.said(t, p.id, "held"), " "), "memory limit stays at "+mebibytes(predicted))
	})
	if limit := h.limit(t, p.id, "memory"); limit != predicted && time.Since(attacked) < 3*time.Second {
		t.Errorf("limit %d MiB although growth is held", limit>>20)
	}
	eventually(t, "the limit follows once the risk has fallen", func() bool { return h.limit(t, p.id, "memory") > predicted })
	if n := len(h.said(t, p.id, "oom")); n > 0 || !p.lives() {
		t.Errorf("killed %d times", n)
	}
	p.grow(t, 64, 200e6)
}
