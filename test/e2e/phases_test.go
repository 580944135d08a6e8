package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// quickPhases makes little time and few runs enough.
const quickPhases = `sample = "100ms"
[phases]
runs = 4
served = "100ms"
quiet = "1500ms"
`

// server is a workload that serves.
func server(h *host, flags ...string) container {
	return container{args: []string{"/probe", "serve"}, flags: append([]string{h.withProbe()}, flags...)}
}

// get asks a server in a container, by a program that a client executes there.
func (h *host) get(id, path string) string {
	return h.exec(id, "wget", "-qO-", "http://127.0.0.1:8080"+path).Stdout
}

func (h *host) saw(t testing.TB, id, kind, words string) bool {
	return slices.ContainsFunc(h.events(t, id), func(e event) bool { return e.Kind == kind && strings.Contains(e.Message, words) })
}

// learn lets a server serve and end, some times.
func (h *host) learn(t testing.TB, c container, runs int) {
	t.Helper()
	for range runs {
		id := h.start(t, c)
		eventually(t, "it serves", func() bool { return h.saw(t, id, "phase", "it serves") })
		eventually(t, "it answers", func() bool { return h.get(id, "/") == "ok\n" })
		time.Sleep(300 * time.Millisecond) // of serving
		if err := h.Ctr("task", "kill", "-s", "SIGTERM", id).Check(); err != nil {
			t.Fatal(err)
		}
		h.remove(id)
	}
}

// TestPhases: a server that never executed a program while serving may not begin with it when it is taken over.
func TestPhases(t *testing.T) {
	h := newHost(t, harness.WithConfig(quickPhases))
	c := server(h)
	const shell = "/exec?path=/bin/sh&arg=-c&arg=id"
	id := h.start(t, c)
	if out := h.get(id, shell); !strings.Contains(out, "uid=0") {
		t.Fatalf("a first run: %q", out) // nothing is known of it yet; what it did is learned for what it is
	}
	h.remove(id)
	other := server(h)
	other.args = append(other.args, "-addr", ":8080") // another workload, by its command
	h.learn(t, other, 5)

	id = h.start(t, other)
	eventually(t, "the policy of a serving workload", func() bool { return h.saw(t, id, "phase", "refused from now on") })
	h.explain(t, id).want(t, "serving/execve", "deny", "default")
	if out := h.get(id, shell); strings.Contains(out, "uid=0") || !strings.Contains(out, "not permitted") {
		t.Errorf("a shell of a serving server: %q", out)
	}
	if out := h.get(id, "/"); out != "ok\n" {
		t.Errorf("it does not serve any more: %q", out)
	}
	if r := h.exec(id, "sh", "-c", "id"); !strings.Contains(r.Stdout, "uid=0") {
		t.Errorf("what a client executes: %q %q", r.Stdout, r.Stderr)
	}
	eventually(t, "one event with the tree", func() bool { return h.saw(t, id, "denied", "execve of /bin/sh") })
	told := slices.DeleteFunc(h.events(t, id), func(e event) bool { return e.Kind != "denied" || e.Fields["syscall"] != "execve" })
	if len(told) != 1 || told[0].Fields["phase"] != "serving" || strings.Count(told[0].Fields["tree"], "probe(") != 2 || !strings.Contains(told[0].Message, "/probe)") {
		t.Errorf("told: %+v", told)
	}
	if err := h.Ctr("task", "kill", "-s", "SIGWINCH", id).Check(); err != nil { // as for a reload
		t.Fatal(err)
	}
	if out := h.get(id, shell); !strings.Contains(out, "uid=0") {
		t.Errorf("while it is told to reload: %q", out)
	}
	eventually(t, "it is closed again", func() bool {
		time.Sleep(2 * time.Second) // longer than `quiet`: a program that is started meanwhile is part of the reload
		return !strings.Contains(h.get(id, shell), "uid=0")
	})
}

// TestAttacksByPhase makes every attack of the probe from a server, when it starts and when it serves, and those of matrix from
// a client's exec too. What is denied before is denied then.
func TestAttacksByPhase(t *testing.T) {
	// What code was caught at, its next runs are told: without safeguards only the phase makes a difference.
	h := newHost(t, harness.WithConfig(quickPhases+early+"[safeguards]\nlive = false\nhigh = []\ncritical = []\n"))
	for user, flags := range map[string][]string{"root": nil, "uid 33": {"--user=33:33"}} {
		t.Run(user, func(t *testing.T) {
			c := server(h, flags...)
			id := h.start(t, c)
			h.accompany(t, id)
			before := h.attacked(t, id)
			h.attackedAs(t, id, func(e expected) string { return e.start })
			h.remove(id)
			c.args = append(c.args, "-addr", "127.0.0.1:8080") // another workload, by its command
			h.learn(t, c, 5)
			id = h.start(t, c)
			eventually(t, "the policy of a serving workload", func() bool { return h.saw(t, id, "phase", "refused from now on") })
			h.accompany(t, id)
			serving := h.attacked(t, id)
			h.attackedAs(t, id, func(e expected) string { return e.serving })
			for _, name := range mustBeDenied {
				if !denied(before[name]) || !denied(serving[name]) {
					t.Errorf("%s: %s at first, %s while serving", name, before[name], serving[name])
				}
			}
			for _, name := range attacks {
				if denied(before[name]) && !denied(serving[name]) {
					t.Errorf("%s: %s at first, %s while serving", name, before[name], serving[name])
				}
			}
			t.Logf("%-20s %-8s %s", "attack", "start", "serving")
			for _, name := range attacks {
				t.Logf("%-20s %-8s %s", name, before[name], serving[name])
			}
			if out := h.get(id, "/"); out != "ok\n" {
				t.Errorf("it does not serve any more: %q", out)
			}
		})
	}
}

// mustBeDenied have no benign use in a container without further capabilities.
var mustBeDenied = strings.Fields(`unshare unshare_user clone_newuser clone3 setns mount umount2 pivot_root open_tree fsopen move_mount
	pidfd_getfd bpf perf_event_open keyctl add_key request_key io_uring_setup userfaultfd open_by_handle_at init_module finit_module
	delete_module kexec_load reboot swapon acct quotactl clock_settime sethostname syslog fanotify_init socket_alg`)

func denied(result string) bool { return result != "ok" && result != "" }

// attacked lets a server attack from its own process.
func (h *host) attacked(t testing.TB, id string) map[string]string {
	t.Helper()
	eventually(t, "it answers", func() bool { return h.get(id, "/") == "ok\n" })
	out := make(map[string]string)
	names := slices.DeleteFunc(slices.Clone(attacks), func(name string) bool { return name == "int80" }) // where the kernel has no 32-bit calls it would end the server
	for line := range strings.Lines(h.get(id, "/attack?names="+strings.Join(names, ","))) {
		var v struct{ Name, Result string }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		out[v.Name] = v.Result
	}
	if len(out) != len(names) {
		t.Errorf("%d of %d attacks were made", len(out), len(names))
	}
	return out
}
