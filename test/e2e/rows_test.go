package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// TestChangesOfProcesses changes what the kernel keeps for each process, makes room for limits, and freezes.
func TestChangesOfProcesses(t *testing.T) {
	h := newHost(t)
	t.Run("resource limits", func(t *testing.T) { limitsOfProcesses(t, h) })
	t.Run("OOM score", func(t *testing.T) { scoresOfProcesses(t, h) })
	t.Run("reclaim", func(t *testing.T) { roomIsMade(t, h) })
	t.Run("frozen", func(t *testing.T) { frozenStaysFrozen(t, h) })
}

// family is the processes of a container: its init and the child that it has.
func (h *host) family(t *testing.T, id string) []int {
	t.Helper()
	var pids []int
	eventually(t, "two processes", func() bool {
		dir, _ := cgroupOf(t, int(h.task(t, id).Pid()), "pids")
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		pids = nil
		for _, word := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(word)
			pids = append(pids, pid)
		}
		return len(pids) == 2
	})
	return pids
}

func limitsOfProcesses(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000 & wait"))
	pids := h.family(t, id)
	want := func(soft, hard uint64) {
		t.Helper()
		for _, pid := range pids {
			var l unix.Rlimit
			if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l); err != nil || l.Cur != soft || l.Max != hard {
				t.Errorf("process %d: %+v %v, want %d and %d", pid, l, err, soft, hard)
			}
		}
		h.says(t, id, "ulimit -Hn", fmt.Sprintln(hard)) // of what is executed later
	}
	want(1024, 1024)
	h.set(t, id, "rlimits/NOFILE=512")
	want(512, 512)
	h.explain(t, id).want(t, "rlimits/RLIMIT_NOFILE", "512", "operator")
	if capable(t, unix.CAP_SYS_RESOURCE) {
		h.set(t, id, "rlimits/NOFILE=768")
		want(768, 768) // the soft one is that of the creation, as far as the hard one lets it be
		h.adjust(t, "unset", id, "rlimits")
		want(1024, 1024)
		return
	}
	if text := h.refusal(t, id, "rlimits/NOFILE=768"); !strings.Contains(text, "needs CAP_SYS_RESOURCE") {
		t.Errorf("raised without the capability: %s", text)
	}
	want(512, 512)
	h.explain(t, id).want(t, "rlimits/RLIMIT_NOFILE", "512", "operator")
}

func scoresOfProcesses(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000 & wait"))
	pids := h.family(t, id)
	score := func(pid int) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	want := func(n string) {
		t.Helper()
		for _, pid := range pids {
			if has := score(pid); has != n {
				t.Errorf("process %d has %s, want %s", pid, has, n)
			}
		}
		h.says(t, id, "for i in $(seq 100); do grep -qx -- "+n+" /proc/self/oom_score_adj && exit 0; sleep 0.05; done; exit 1", "") // once its start was answered
	}
	began := score(pids[0])
	h.set(t, id, "oom_score_adj=700")
	want("700")
	h.set(t, id, "oom_score_adj=300") // less, and not less than at the creation
	want("300")
	if !capable(t, unix.CAP_SYS_RESOURCE) {
		if text := h.refusal(t, id, "oom_score_adj=-500"); !strings.Contains(text, "CAP_SYS_RESOURCE") {
			t.Errorf("lowered without the capability: %s", text)
		}
		want("300")
	}
	h.adjust(t, "reset", id)
	for _, pid := range pids {
		if has := score(pid); has != began {
			t.Errorf("process %d has %s again, want %s", pid, has, began)
		}
	}
}

// roomIsMade: memory that the kernel can take back is taken back before a limit is set when asked; what it cannot take stands in
// the way, and nothing changes.
func roomIsMade(t *testing.T, h *host) {
	id := h.start(t, sh("dd if=/dev/zero of=/file bs=1M count=96 2>/dev/null; sync; echo > /dev/shm/done; exec sleep 1000", "--memory-limit=134217728"))
	eventually(t, "96 MiB of cache", func() bool {
		return h.exec(id, "test", "-e", "/dev/shm/done").Code == 0 && h.limit(t, id, "memory.used") > 90<<20
	})
	h.adjust(t, "set", id, "memory=120Mi")
	if used := h.limit(t, id, "memory.used"); used < 80<<20 {
		t.Errorf("%d bytes in use: room was made for a limit that has it, unasked", used)
	}
	h.adjust(t, "set", id, "memory=48Mi", "--reclaim")
	if m, used := h.limit(t, id, "memory"), h.limit(t, id, "memory.used"); m != 48<<20 || used > 48<<20 {
		t.Errorf("the kernel has memory %d, of which %d are in use", m, used)
	}
	big := h.start(t, probe("grow", "80", "0", "1000s").with("--memory-limit=134217728"))
	eventually(t, "80 MiB in use", func() bool { return h.limit(t, big, "memory.used") > 80<<20 })
	before := h.explain(t, big).Revision
	r := h.Forefend("set", big, "memory=32Mi", "--reclaim")
	if text := strings.Join(strings.Fields(r.Stdout), " "); r.Code != 1 || !strings.Contains(text, "in use that the kernel cannot reclaim") {
		t.Errorf("a limit below what is in use: exit status %d, %s", r.Code, text)
	}
	if m, d := h.limit(t, big, "memory"), h.explain(t, big); m != 128<<20 || d.Revision != before {
		t.Errorf("the kernel has memory %d, revision %d", m, d.Revision)
	}
}

// frozenStaysFrozen: nothing is executed in a frozen container, which is said at once; a daemon that comes anew neither
// thaws it nor forgets how.
func frozenStaysFrozen(t *testing.T, h *host) {
	id := h.start(t, sh("while :; do echo x >> /dev/shm/log; sleep 0.02; done"))
	log := fmt.Sprintf("/proc/%d/root/dev/shm/log", h.task(t, id).Pid())
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	eventually(t, "its work", func() bool { return size() > 0 })
	h.adjust(t, "freeze", id)
	if r := h.exec(id, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "paused") && !strings.Contains(r.Stderr, "frozen") {
		t.Errorf("an exec of a frozen container: exit status %d, %q", r.Code, r.Stderr)
	}
	h.set(t, id, "pids=60") // a change is no thaw
	h.killDaemons(t)
	if err := h.Forefend("daemon", "--detach").Check(); err != nil {
		t.Fatal(err)
	}
	if n := size(); within(300e6, func() bool { return size() != n }) {
		t.Error("it works on under a new daemon")
	}
	if d := h.explain(t, id); d.Revision != 2 {
		t.Errorf("revision %d", d.Revision)
	}
	h.adjust(t, "thaw", id)
	n := size()
	eventually(t, "its work again", func() bool { return size() > n })
	if r := h.exec(id, "true"); r.Code != 0 {
		t.Errorf("an exec after the thaw: %v", r.Check())
	}
}

// TestAgentFault speaks in an agent's place, as somebody would who took it over: the channel is closed, the agent replaced, and
// the container's risk has it.
func TestAgentFault(t *testing.T) {
	h := newHost(t, harness.WithConfig(early))
	id := h.start(t, sh("sleep 1000"))
	pid := h.agentOf(t, id)
	var shown struct{ Agent *api.Agent }
	h.ask(t, &shown, "explain", id)
	if a := shown.Agent; a == nil || a.Status != api.AgentRunning || a.PID == 0 || len(a.Faults) > 0 {
		t.Errorf("explain shows %+v", a)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	const channelFD = 3
	channel, err := unix.PidfdGetfd(process, channelFD, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = unix.Write(channel, []byte(strings.Repeat("garbage ", 100)))
	unix.Close(channel)
	if err != nil {
		t.Fatal(err)
	}
	if !within(time.Minute, func() bool { return h.saw(t, id, "threat", "T1562.001") }) {
		h.ask(t, &shown, "explain", id)
		t.Fatalf("the fault is no attack pattern; agent %+v, events %+v", shown.Agent, h.events(t, id))
	}
	eventually(t, "another agent", func() bool { pids := h.agents(id); return len(pids) == 1 && pids[0] != pid })
	eventually(t, "what explain shows of it", func() bool {
		shown.Agent = nil
		h.ask(t, &shown, "explain", id)
		return shown.Agent != nil && shown.Agent.Status == api.AgentRunning && len(shown.Agent.Faults) == 1
	})
	if out := h.Forefend("explain", id).Stdout; !strings.Contains(out, "fault of its channel") {
		t.Errorf("explain says\n%s", out)
	}
	if r := h.exec(id, "true"); r.Code != 0 {
		t.Errorf("the container does not live on: %v", r.Check())
	}
}
