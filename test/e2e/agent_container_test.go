package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// TestAgentOfEveryKind starts containers of all kinds; each has a working agent, and runs as it would without.
func TestAgentOfEveryKind(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	if err := os.Chmod(h.Dir, 0o711); err != nil { // a container in a user namespace reaches its root file system through it
		t.Fatal(err)
	}
	for name, c := range map[string]container{
		"plain":          sh("sleep 1000"),
		"read-only root": sh("sleep 1000", "--read-only"),
		"uid 1000":       sh("sleep 1000", "--user", "1000:1000"),
		"user namespace": sh("sleep 1000", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"),
	} {
		t.Run(name, func(t *testing.T) {
			id := h.start(t, c)
			if pid := h.agentOf(t, id); namespaceOf(t, pid, "net") != namespaceOf(t, h.pidOf(t, id), "net") {
				t.Error("the agent is in another network namespace")
			}
			if a := h.agentState(t, id); a.Status != api.AgentRunning || len(a.Degraded) > 0 || a.Files > 12 {
				t.Errorf("%+v", a)
			}
		})
	}
}

// agentState asks forefend agent.
func (h *host) agentState(t testing.TB, id string, flags ...string) (a api.Agent) {
	t.Helper()
	r := h.Forefend(append([]string{"agent", id, "--json"}, flags...)...)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAgentCommand injects an agent by name that would have come later, and sees the container's server by it.
func TestAgentCommand(t *testing.T) {
	h := newHost(t, harness.WithConfig("[agent]\ndelay = \"1h\"\n"))
	id := h.start(t, sh("nc -l -p 7777; sleep 1000"))
	if a := h.agentState(t, id); a.Status != api.AgentWaiting {
		t.Errorf("%+v", a)
	}
	eventually(t, "the listening socket", func() bool {
		for _, s := range h.agentState(t, id, "--now").Listening {
			if strings.HasSuffix(s.Local, ":7777") {
				return true
			}
		}
		return false
	})
	if r := h.Forefend("agent", id); !strings.Contains(r.Stdout, ":7777") || !strings.Contains(r.Stdout, "CAP_NET_ADMIN") {
		t.Error(r.Stdout)
	}
	other := h.start(t, sh("sleep 1000", "--net-host"))
	if a := h.agentState(t, other, "--now"); a.Status != api.AgentNone || !strings.Contains(a.Reason, "host's network") {
		t.Errorf("%+v", a)
	}
}

// TestAgentOff: the annotation is a loosening, which a profile has to grant.
func TestAgentOff(t *testing.T) {
	h := newHost(t, harness.WithConfig(early+"[[profile]]\nname = \"trusted\"\nusers = [\"alice\"]\ngrants = [\"agent\"]\n"))
	off := []string{"--annotation", "forefend.dev/agent=off"}
	id := h.start(t, sh("sleep 1000", off...))
	h.agentOf(t, id) // refused: nobody grants it
	id = h.start(t, sh("sleep 1000", append(off, "--annotation", "forefend.dev/user=alice")...))
	if a := h.agentState(t, id); a.Status != api.AgentNone || len(h.agents(id)) > 0 {
		t.Errorf("%+v", a)
	}
}

// TestAgentWanted: with a guardrail no container starts without an agent, and otherwise one that cannot be injected stops nothing.
func TestAgentMissing(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	if err := os.WriteFile(h.state("agent"), nil, 0o600); err != nil { // where the empty root directory is to be
		if err := os.MkdirAll(h.state(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.state("agent"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	id := h.start(t, sh("sleep 1000"))
	if a := h.agentState(t, id); a.Status != api.AgentFailed || a.Reason == "" {
		t.Errorf("%+v", a)
	}
	eventually(t, "the event of it", func() bool { return strings.Contains(h.Forefend("events", id).Stdout, "no agent") })
	h.killDaemons(t)
	h.siteSays(t, early+"[guardrails]\nagent = \"on\"\n")
	if r := h.run(sh("true")); r.Code == 0 || !strings.Contains(r.Stderr, "a guardrail wants an agent") {
		t.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
}

// TestAgentNotify: an application is offered a socket, says that it is ready, and asks for changes of its policy.
func TestAgentNotify(t *testing.T) {
	h := newHost(t)
	id := h.start(t, sh("sleep 1000", "--annotation", "forefend.dev/notify=on", "--memory-limit", strconv.Itoa(256<<20)))
	if out := h.exec(id, "cat", "/proc/1/environ").Stdout; !strings.Contains(out, "NOTIFY_SOCKET=@forefend/notify") {
		t.Errorf("environment %q", out)
	}
	h.say(t, id, "READY=1\nSTATUS=serving 3 clients")
	eventually(t, "its word", func() bool { return h.agentState(t, id).Says == "serving 3 clients" })
	eventually(t, "the event", func() bool { return strings.Contains(h.Forefend("events", id).Stdout, "says that it is ready") })
	h.say(t, id, "FOREFEND_REQUEST=memory=128Mi") // tightens
	eventually(t, "the limit", func() bool { return h.limit(t, id, "memory") == 128<<20 })
	h.say(t, id, "FOREFEND_REQUEST=memory=1Gi") // loosens, and nobody grants it
	h.say(t, id, "FOREFEND_REQUEST=nonsense=1")
	eventually(t, "the refusal", func() bool { return strings.Contains(h.Forefend("events", id).Stdout, "in vain") })
	if got := h.limit(t, id, "memory"); got > 256<<20 {
		t.Errorf("the application has loosened its limit to %d", got)
	}
	// Another container in its own namespace has no such socket.
	if out := h.mustRun(t, sh("cat /proc/1/environ; cat /proc/net/unix")); strings.Contains(out, "forefend") {
		t.Errorf("not asked for: %s", out)
	}
}

// say sends a message to a container's notify socket, as one of its processes would.
func (h *host) say(t testing.TB, id, message string) {
	t.Helper()
	ns, err := enter.Process(h.pidOf(t, id))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, []byte(message), 0, &unix.SockaddrUnix{Name: "@forefend/notify"})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAgentIsOutOfReach looks for the agent from inside of a container, as root.
func TestAgentIsOutOfReach(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	id := h.start(t, sh("sleep 1000"))
	pid := h.agentOf(t, id)
	out := h.exec(id, "sh", "-c", "ps; cat /proc/net/unix /proc/net/netlink; ls -l /proc/*/fd /proc/*/exe 2>&1; ls /proc; find / -name '*fore''fend*' 2>/dev/null").Stdout
	for _, word := range []string{"forefend", "agent"} {
		if strings.Contains(out, word) {
			t.Errorf("%q is seen from inside:\n%s", word, out)
		}
	}
	if r := h.exec(id, "sh", "-c", fmt.Sprintf("kill -9 %d; ls /proc/%d", pid, pid)); r.Code == 0 {
		t.Errorf("the container has a process %d", pid)
	}
	if now := h.agentOf(t, id); now != pid {
		t.Error("the agent was ended from inside")
	}
}
