package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

func annotate(key, value string) string { return "--annotation=forefend.dev/" + key + "=" + value }

// TestRequests checks what annotations may ask for, and what a site does with it.
func TestRequests(t *testing.T) {
	h := newHost(t, harness.WithConfig(labProfile+`
[guardrails]
memory = { min = "16Mi", max = "256Mi" }
capabilities.drop = ["SYS_MODULE"]
syscalls.deny = ["acct"]
`))
	t.Run("limits", func(t *testing.T) { annotatedLimits(t, h) })
	t.Run("tighten", func(t *testing.T) { annotationsTighten(t, h) })
	t.Run("loosen", func(t *testing.T) { looseningNeedsGrant(t, h) })
	t.Run("guardrails", func(t *testing.T) { guardrailsClamp(t, h) })
	t.Run("unconfined", func(t *testing.T) { guardedIsNeverUnconfined(t, h) })
	t.Run("malformed", func(t *testing.T) { malformedIsRefused(t, h) })
}

func annotatedLimits(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", annotate("memory", "64Mi"), annotate("pids", "50"), annotate("cpus", "0.5")))
	d := h.explain(t, id)
	for key, text := range map[string]string{"memory": "64 MiB", "pids": "50", "cpus": "0.5"} {
		if f := d.want(t, key, text, "request"); f.Source != "annotation forefend.dev/"+key {
			t.Errorf("%s comes from %q", key, f.Source)
		}
	}
	if n := h.limit(t, id, "memory"); n != 64<<20 {
		t.Errorf("the kernel's memory limit is %d", n)
	}
	if n := h.limit(t, id, "pids"); n != 50 {
		t.Errorf("the kernel's limit of processes is %d", n)
	}
	if quota, period := h.limit(t, id, "cpu.quota"), h.limit(t, id, "cpu.period"); quota*2 != period || quota == 0 {
		t.Errorf("the kernel's CPU quota is %d of %d", quota, period)
	}
	r := h.run(sh("/probe fork 100 100ms", h.withProbe(), annotate("pids", "50")))
	if r.Code == 0 {
		t.Errorf("a hundred processes under a limit of 50: %q", r.Stdout)
	}
}

// annotationsTighten needs no grant.
func annotationsTighten(t *testing.T, h *host) {
	id := h.newID("tight")
	out := h.mustRun(t, sh("mkdir /tmp/x || echo refused; grep -e CapBnd -e NoNewPrivs /proc/self/status; cat /proc/version || echo hidden",
		annotate("syscalls.deny", "mkdir, rmdir"), annotate("capabilities.drop", "net_raw,CHOWN"),
		annotate("masked_paths", "/proc/version")).named(id))
	if !strings.Contains(out, "refused") {
		t.Errorf("mkdir is denied, yet %q", out)
	}
	h.sawCall(t, id, "denied", "mkdir")
	plain := h.mustRun(t, sh("grep -e CapBnd /proc/self/status"))
	const chown, netRaw = 1 << 0, 1 << 13
	if got, want := capabilities(t, out), capabilities(t, plain)&^(chown|netRaw); got != want || want == 0 {
		t.Errorf("bounding set %x, want %x", got, want)
	}
	if strings.Contains(out, "Linux version") {
		t.Errorf("the masked path can be read: %q", out)
	}
	d := h.explain(t, id)
	d.want(t, "syscalls/mkdir", "deny", "request")
	d.want(t, "capabilities/CAP_NET_RAW", "dropped", "request")
}

// capabilities reads the CapBnd line of a status file.
func capabilities(t testing.TB, status string) uint64 {
	t.Helper()
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "CapBnd:" {
			n, err := strconv.ParseUint(f[1], 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no CapBnd in %q", status)
	return 0
}

func looseningNeedsGrant(t *testing.T, h *host) {
	c := probe("attack", "--json", "ptrace", "keyctl", "add_key").with(annotate("syscalls.allow", "ptrace,add_key"))
	id := h.newID("refused")
	if v := h.verdicts(t, c.named(id)); v["ptrace"] != "EPERM" || v["add_key"] != "EPERM" {
		t.Errorf("without a grant: %v", v)
	}
	f := h.explain(t, id).want(t, "syscalls/ptrace", "deny", "default")
	if !slices.ContainsFunc(f.Lost, func(l lostClaim) bool { return strings.Contains(l.Source, "syscalls.allow") && l.Why != "" }) {
		t.Errorf("the refused annotation is not among the losers: %+v", f.Lost)
	}
	id = h.newID("granted") // ptrace is granted to the lab, add_key is not
	if v := h.verdicts(t, c.with(asLab).named(id)); v["ptrace"] != "ok" || v["add_key"] != "EPERM" || v["keyctl"] != "EPERM" {
		t.Errorf("with the grant: %v", v)
	}
	d := h.explain(t, id)
	d.want(t, "syscalls/ptrace", "watch", "request")
	if d.Profile != "lab" {
		t.Errorf("profile %q", d.Profile)
	}
}

// guardedIsNeverUnconfined: where the site denies a call, even a granted annotation leaves a profile in force.
func guardedIsNeverUnconfined(t *testing.T, h *host) {
	out := h.mustRun(t, sh("grep ^Seccomp: /proc/self/status; /probe attack --json acct", h.withProbe(), "--cap-add=CAP_SYS_PACCT", annotate("seccomp", "unconfined"), asLab))
	if !strings.Contains(out, "Seccomp:\t2\n") || !strings.Contains(out, `"EPERM"`) {
		t.Errorf("output %q", out)
	}
}

// TestUnconfined checks what switches the supervision of system calls off, and what then works that did not.
func TestUnconfined(t *testing.T) {
	h := newHost(t, harness.WithConfig(labProfile))
	c := sh("grep ^Seccomp: /proc/self/status", annotate("seccomp", "unconfined"))
	if out := h.mustRun(t, c); out != "Seccomp:\t2\n" {
		t.Errorf("without a grant: %q", out)
	}
	if out := h.mustRun(t, c.with(asLab)); out != "Seccomp:\t0\n" {
		t.Errorf("with the grant: %q", out)
	}
	id := h.start(t, sh("sleep 1000"))
	if r := h.Ctr("task", "checkpoint", id); r.Code == 0 || !strings.Contains(r.Stderr, "forefend.dev/seccomp=unconfined") {
		t.Errorf("checkpoint: %d %q", r.Code, r.Stderr)
	}
}

func guardrailsClamp(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000", "--memory-limit=536870912", "--privileged"))
	f := h.explain(t, id).want(t, "memory", "256 MiB", "guardrail")
	if !slices.ContainsFunc(f.Lost, func(l lostClaim) bool { return l.Text == "512 MiB" && l.Author == "request" }) {
		t.Errorf("the request is not among the losers: %+v", f.Lost)
	}
	if n := h.limit(t, id, "memory"); n != 256<<20 {
		t.Errorf("the kernel's memory limit is %d", n)
	}
	id = h.newID("clamped")
	out := h.mustRun(t, sh("grep CapBnd /proc/self/status; /probe attack --json acct", h.withProbe(),
		"--cap-add=CAP_SYS_MODULE", "--cap-add=CAP_SYS_PACCT", annotate("memory", "1Mi")).named(id))
	const module, pacct = 1 << 16, 1 << 20
	if c := capabilities(t, out); c&module != 0 || c&pacct == 0 {
		t.Errorf("bounding set %x", c)
	}
	if !strings.Contains(out, `"EPERM"`) {
		t.Errorf("a call the site denies: %q", out)
	}
	d := h.explain(t, id)
	d.want(t, "capabilities/CAP_SYS_MODULE", "dropped", "guardrail")
	d.want(t, "syscalls/acct", "deny", "guardrail")
	d.want(t, "memory", "16 MiB", "guardrail")
}

// malformedIsRefused checks that no container comes to be with half a policy, and that nothing stays behind.
func malformedIsRefused(t *testing.T, h *host) {
	for name, flags := range map[string][]string{
		"forefend.dev/memory":            {annotate("memory", "lots")},
		"forefend.dev/memroy":            {annotate("memroy", "1Gi")},
		"forefend.dev/pids":              {annotate("pids", "-5")},
		"forefend.dev/syscalls.deny":     {annotate("syscalls.deny", "a b")},
		"forefend.dev/capabilities.drop": {annotate("capabilities.drop", "")},
		"forefend.dev/mode":              {annotate("mode", "off"), annotate("cpus", "1")},
		"forefend.dev/user":              {annotate("user", "no such name")},
	} {
		t.Run(name, func(t *testing.T) {
			id := h.newID("malformed")
			r := h.run(sh("echo ran", flags...).named(id))
			if r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, name) {
				t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
			}
			if r := h.Forefend("explain", id); r.Code != 4 {
				t.Errorf("explain: %d %q", r.Code, r.Stdout+r.Stderr)
			}
			h.Ctr("container", "rm", id)
		})
	}
	h.noLeaks(t)
}
