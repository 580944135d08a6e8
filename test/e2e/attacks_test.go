package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// expected is what becomes of one attack: in a start, and from the process of a serving server. Several, with | between
// them, are as good.
type expected struct{ start, serving string }

// foreign is what becomes of calls by other numbers than this machine's own: refused, or whoever makes them is killed. A kernel
// without 32-bit calls does that, too.
const foreign = "EPERM|ENOSYS|killed by SIGSYS|killed by SIGSEGV"

// matrix are the attacks that reach other processes, get round the filter, or look for the agent, each beside the benign
// twin that has to pass.
var matrix = map[string]expected{
	"process_vm_writev_stranger": {"EPERM", "EPERM"}, "process_vm_writev_child": {"ok", "ok"},
	"ptrace_stranger": {"EPERM", "EPERM"}, "ptrace_child": {"ok", "ok"},
	"memfd_execveat": {"ok", "EPERM"}, "memfd_create": {"ok", "ok"}, // a start executes programs, a server that never did does not
	"modify_ldt":       {"EPERM", "EPERM"},
	"personality_exec": {"EPERM", "EPERM"}, "personality_query": {"ok", "ok|EPERM"}, // once it serves, none is expected
	"seccomp_listener": {"EPERM|EBUSY", "EPERM|EBUSY"}, "seccomp_filter": {"ok", "ok"},
	"seccomp_shadow": {"EPERM", "EPERM"},
	"flood":          {"EPERM", "EPERM"},
	"agent_process":  {"ESRCH", "ESRCH"}, "agent_abstract": {"ENOENT", "ENOENT"}, "agent_socketpair": {"ENOENT", "ENOENT"},
	"socket_alg": {"EPERM", "EPERM"}, "socket_vsock": {"EPERM", "EPERM"}, "socket_inet": {"ok", "ok"}, "socket_unix": {"ok", "ok"},
	"x32": {foreign, foreign}, "x32_unshare": {foreign, foreign}, "int80_unshare": {foreign, foreign},
}

// accompany puts a process beside a server's that is not its own, and waits for an agent to look for.
func (h *host) accompany(t *testing.T, id string) {
	t.Helper()
	if err := h.Ctr("task", "exec", "--detach", "--exec-id", h.newID("x"), id, "sleep", "100000").Check(); err != nil {
		t.Fatal(err)
	}
	h.agentOf(t, id)
}

// attackedAs has a server attack by itself, and a client's exec, and compares what comes of it.
func (h *host) attackedAs(t *testing.T, id string, want func(expected) string) {
	t.Helper()
	eventually(t, "it answers", func() bool { return h.get(id, "/") == "ok\n" })
	var names []string
	for name := range matrix {
		names = append(names, name)
	}
	slices.Sort(names)
	got := results(t, h.get(id, "/attack?names="+strings.Join(names, ",")))
	for _, name := range names {
		if w := want(matrix[name]); !slices.Contains(strings.Split(w, "|"), got[name]) {
			t.Errorf("%s by the server: %q, want %s", name, got[name], w)
		}
	}
	executed := results(t, h.exec(id, append([]string{"/probe", "attack", "--json"}, names...)...).Stdout)
	for name, result := range executed {
		if w := matrix[name].start; !slices.Contains(strings.Split(w, "|"), result) { // what a client executes has no phase
			t.Errorf("%s by an exec: %q, want %s", name, result, w)
		}
	}
	t.Logf("%-28s %-8s %s", "attack", "server", "exec")
	for _, name := range names {
		t.Logf("%-28s %-8s %s", name, got[name], executed[name])
	}
}

// results reads the lines of the probe's attacks.
func results(t *testing.T, text string) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		var v struct{ Name, Result string }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		out[v.Name] = v.Result
	}
	return out
}
