package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestAdjust changes running containers by `forefend set` and its kin.
func TestAdjust(t *testing.T) {
	h := newHost(t, harness.WithConfig("[guardrails]\nmemory = { max = \"256Mi\" }\n"))
	t.Run("limits", func(t *testing.T) { limitsAreSet(t, h) })
	t.Run("call", func(t *testing.T) { callIsDeniedAndAllowed(t, h) })
	t.Run("refused", func(t *testing.T) { settingsAreRefused(t, h) })
}

// adjust runs one of the commands that change a container and wants it to succeed.
func (h *host) adjust(t testing.TB, args ...string) string {
	t.Helper()
	r := h.Forefend(args...)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	return r.Stdout
}

func limitsAreSet(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--memory-limit=134217728"))
	h.adjust(t, "set", id, "memory=64Mi", "pids=50", "cpus=0.5", "--reason", "ticket 4711")
	d := h.explain(t, id)
	if f := d.want(t, "memory", "64 MiB", "operator"); f.Reason != "ticket 4711" || d.Revision != 2 {
		t.Errorf("revision %d, memory %+v", d.Revision, f)
	}
	d.want(t, "pids", "50", "operator")
	d.want(t, "cpus", "0.5", "operator")
	if m, p, q := h.limit(t, id, "memory"), h.limit(t, id, "pids"), h.limit(t, id, "cpu.quota"); m != 64<<20 || p != 50 || q != 50_000 {
		t.Errorf("the kernel has memory %d, pids %d, quota %d", m, p, q)
	}
	h.adjust(t, "set", id, "memory=96Mi")
	h.adjust(t, "unset", id, "pids")
	if m, p, q := h.limit(t, id, "memory"), h.limit(t, id, "pids"), h.limit(t, id, "cpu.quota"); m != 96<<20 || p != 0 || q != 50_000 {
		t.Errorf("the kernel has memory %d, pids %d, quota %d", m, p, q)
	}
	h.adjust(t, "rollback", id, "2")
	if m, p := h.limit(t, id, "memory"), h.limit(t, id, "pids"); m != 64<<20 || p != 50 {
		t.Errorf("rolled back, the kernel has memory %d, pids %d", m, p)
	}
	h.adjust(t, "reset", id)
	d = h.explain(t, id)
	d.want(t, "memory", "128 MiB", "request")
	if m, p, q := h.limit(t, id, "memory"), h.limit(t, id, "pids"), h.limit(t, id, "cpu.quota"); m != 128<<20 || p != 0 || q != 0 {
		t.Errorf("reset, the kernel has memory %d, pids %d, quota %d", m, p, q)
	}
	if len(d.Changes) != 5 || d.Revision != 6 {
		t.Errorf("revision %d, changes %+v", d.Revision, d.Changes)
	}
	updated := 0
	for _, e := range h.events(t, id) {
		if e.Kind == "updated" {
			updated++
		}
	}
	if updated != 5 {
		t.Errorf("%d events of 5 changes", updated)
	}
}

func callIsDeniedAndAllowed(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000"))
	if r := h.exec(id, "mkdir", "/tmp/a"); r.Code != 0 {
		t.Fatal(r)
	}
	h.adjust(t, "set", id, "syscalls.deny=mkdir")
	if r := h.exec(id, "mkdir", "/tmp/b"); r.Code == 0 || !strings.Contains(r.Stderr, "not permitted") {
		t.Errorf("a denied call: %v", r)
	}
	h.adjust(t, "unset", id, "syscalls/mkdir")
	if r := h.exec(id, "mkdir", "/tmp/b"); r.Code != 0 {
		t.Errorf("a call that is allowed again: %v", r)
	}
}

func settingsAreRefused(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--memory-limit=134217728"))
	for setting, words := range map[string]string{
		"memory=1Gi":         "config.toml [guardrails] holds it to 256 MiB",
		"memory=much":        "not a size such as 64Mi",
		"memori=64Mi":        "unknown",
		"syscalls.deny=nope": "there is no system call nope",
		"agent=off":          "create the container anew",
	} {
		r := h.Forefend("set", id, setting, "pids=40")
		if text := strings.Join(strings.Fields(r.Stdout+r.Stderr), " "); r.Code != 1 || !strings.Contains(text, words) {
			t.Errorf("set %s: exit status %d, %q lacks %q", setting, r.Code, text, words)
		}
		want := int64(0)
		if setting == "agent=off" { // decided, and not to be done: the other dimension is
			want = 40
		}
		if p := h.limit(t, id, "pids"); p != want {
			t.Errorf("set %s: the kernel has pids %d, want %d", setting, p, want)
		}
		h.Forefend("reset", id)
	}
	if m := h.limit(t, id, "memory"); m != 128<<20 {
		t.Errorf("the kernel has memory %d", m)
	}
	attemptMakesNoRevision(t, h, id)
}

// attemptMakesNoRevision: what is refused as a whole was never in force, so that a rollback does not end there; the
// audit has it.
func attemptMakesNoRevision(t *testing.T, h *host, id string) {
	h.adjust(t, "set", id, "pids=60")
	before := h.explain(t, id)
	r := h.Forefend("set", id, "agent=off", "--reason", "in vain")
	if stays := fmt.Sprintf("Nothing was changed; revision %d is in force.", before.Revision); r.Code != 1 || !strings.Contains(r.Stdout, stays) {
		t.Errorf("exit status %d, %q lacks %q", r.Code, r.Stdout, stays)
	}
	if d := h.explain(t, id); d.Revision != before.Revision || len(d.Changes) != len(before.Changes) {
		t.Errorf("revision %d with %d changes, before %d with %d", d.Revision, len(d.Changes), before.Revision, len(before.Changes))
	}
	told := slices.DeleteFunc(h.events(t, id), func(e event) bool { return e.Kind != "updated" || e.Fields["reason"] != "in vain" })
	if len(told) != 1 || told[0].Fields["revision"] != fmt.Sprint(before.Revision) || !strings.Contains(told[0].Fields["failed"], "create the container anew") {
		t.Errorf("events of the attempt: %+v", told)
	}
	h.adjust(t, "rollback", id) // of the last change that there is
	if p := h.limit(t, id, "pids"); p != 0 {
		t.Errorf("rolled back, the kernel has pids %d", p)
	}
}
