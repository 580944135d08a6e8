package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/e2e/harness"
)

// TestAdaptFiles hides paths of running containers, makes them and their roots read-only, and takes that back.
func TestAdaptFiles(t *testing.T) {
	h := newHost(t)
	t.Run("hidden and shown", func(t *testing.T) { hiddenAndShown(t, h) })
	t.Run("of runc", func(t *testing.T) { coversOfRunc(t, h) })
	t.Run("root", func(t *testing.T) { rootSwitched(t, h) })
	t.Run("containers of all kinds", func(t *testing.T) { filesOfAllKinds(t, h) })
	t.Run("refused", func(t *testing.T) { filesRefused(t, h) })
}

// set has an operator change a running container, all of which has to be applied.
func (h *host) set(t testing.TB, id string, settings ...string) {
	t.Helper()
	h.adjust(t, append([]string{"set", id}, settings...)...)
}

// refusal is set, of which something has to be refused or to fail; it returns all that the command says.
func (h *host) refusal(t testing.TB, id string, settings ...string) string {
	t.Helper()
	r := h.Forefend(append([]string{"set", id}, settings...)...)
	if r.Code != 1 {
		t.Fatalf("%v: exit status %d, %s", settings, r.Code, r.Stdout)
	}
	return strings.Join(strings.Fields(r.Stdout+r.Stderr), " ")
}

// says fails unless a command in the container ends as wanted: with this output, or with an error that says this.
func (h *host) says(t *testing.T, id, script, want string) {
	t.Helper()
	r := h.exec(id, "sh", "-c", script)
	got := r.Stdout
	if r.Code != 0 {
		got = "error: " + r.Stderr
	}
	if want == "error" && r.Code != 0 || strings.HasPrefix(want, "error") && r.Code != 0 && strings.Contains(got, strings.TrimPrefix(want, "error ")) {
		return
	}
	if got != want {
		t.Errorf("%s: %q, want %q", script, got, want)
	}
}

func hiddenAndShown(t *testing.T, h *host) {
	id := h.start(t, sh("mkdir -p /data/sub; echo secret > /data/sub/file; cd /data; exec 3>>/data/log; while :; do echo x >&3; sleep 0.1; done"))
	eventually(t, "the container's file", func() bool { return h.exec(id, "test", "-s", "/data/log").Code == 0 })
	h.says(t, id, "cat /data/sub/file", "secret\n")
	h.set(t, id, "masked_paths//data/sub/file=masked")
	h.says(t, id, "cat /data/sub/file", "")
	h.set(t, id, "masked_paths//data/sub=masked")
	h.says(t, id, "ls /data/sub", "")
	h.says(t, id, "touch /data/sub/x", "error Read-only file system")
	h.set(t, id, "masked_paths//data/sub=visible")
	h.says(t, id, "cat /data/sub/file", "")
	h.set(t, id, "masked_paths//data/sub/file=visible", "readonly_paths//data=readonly")
	h.says(t, id, "cat /data/sub/file", "secret\n")
	h.says(t, id, "echo x > /data/file", "error Read-only file system")
	h.says(t, id, "a=$(wc -c < /data/log); sleep 0.5; test $(wc -c < /data/log) -gt $a", "") // an open file stays open
	eventually(t, "the warning about who stands there", func() bool {
		for _, e := range h.events(t, id) {
			if e.Kind == "degraded" && strings.Contains(e.Message, "in /data") {
				return true
			}
		}
		return false
	})
	h.set(t, id, "readonly_paths//data=writable")
	h.says(t, id, "echo x > /data/file && cat /data/file", "x\n")
}

// coversOfRunc: what the spec hid and protected can be shown and released, and hidden and protected again.
func coversOfRunc(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000"))
	h.says(t, id, "cat /proc/keys", "")
	h.says(t, id, "echo a > /proc/sys/kernel/domainname", "error Read-only file system")
	h.set(t, id, "masked_paths//proc/keys=visible", "readonly_paths//proc/sys=writable")
	if out := h.exec(id, "cat", "/proc/keys").Stdout; out == "" {
		t.Error("/proc/keys is still hidden")
	}
	h.says(t, id, "echo a > /proc/sys/kernel/domainname && cat /proc/sys/kernel/domainname", "a\n")
	h.set(t, id, "masked_paths//proc/keys=masked", "readonly_paths//proc/sys=readonly")
	h.says(t, id, "cat /proc/keys", "")
	h.says(t, id, "echo b > /proc/sys/kernel/domainname", "error Read-only file system")
	h.set(t, id, "masked_paths//proc/latency_stats=visible") // does not exist on most machines
}

func rootSwitched(t *testing.T, h *host) {
	id := h.start(t, sh("exec 3>/log; while test ! -e /dev/shm/stop; do sleep 0.05; done; exec 3>&-; exec sleep 1000"))
	eventually(t, "the open file", func() bool { return h.exec(id, "test", "-e", "/log").Code == 0 })
	if why := h.refusal(t, id, "readonly_root=on"); !strings.Contains(why, "open for writing") {
		t.Errorf("refused because %s", why)
	}
	if strings.Contains(h.Forefend("explain", id).Stdout, "readonly_root on") {
		t.Error("what was refused is in force")
	}
	h.says(t, id, "touch /new && touch /dev/shm/stop", "")
	eventually(t, "a read-only root", func() bool { return h.Forefend("set", id, "readonly_root=on").Code == 0 })
	h.says(t, id, "touch /newer", "error Read-only file system")
	h.says(t, id, "touch /dev/shm/x", "")
	h.set(t, id, "readonly_root=off")
	h.says(t, id, "touch /newer", "")

	id = h.start(t, sh("sleep 1000", "--read-only"))
	h.says(t, id, "touch /new", "error Read-only file system")
	h.set(t, id, "readonly_root=off")
	h.says(t, id, "touch /new", "")
	h.set(t, id, "readonly_root=on")
	h.says(t, id, "touch /newer", "error Read-only file system")
}

func filesOfAllKinds(t *testing.T, h *host) {
	if err := os.Chmod(h.Dir, 0o711); err != nil { // a mapped root has to get to its root file system
		t.Fatal(err)
	}
	hostFile := h.file(t, "volume", "of the host")
	for name, c := range map[string]container{
		"uid 1000":       sh("sleep 1000", "--user=1000"),
		"user namespace": sh("sleep 1000", "--uidmap=0:100000:65536", "--gidmap=0:100000:65536"),
		"read-only root": sh("sleep 1000", "--read-only"),
		"scratch image":  probe("sleep", "1000s"),
		"volume":         sh("sleep 1000", "--mount=type=bind,src="+hostFile+",dst=/etc/passwd,options=rbind:rw"),
	} {
		t.Run(name, func(t *testing.T) {
			path := "/etc/passwd"
			if c.image == "static" {
				path = "/probe"
			}
			id := h.start(t, c)
			inside := fmt.Sprintf("/proc/%d/root%s", h.task(t, id).Pid(), path)
			before, err := os.ReadFile(inside)
			if err != nil || len(before) == 0 {
				t.Fatal(err)
			}
			for range 3 {
				h.set(t, id, "masked_paths/"+path+"=masked", "readonly_paths//dev/shm=readonly")
				if text, err := os.ReadFile(inside); err != nil || len(text) != 0 {
					t.Errorf("hidden: %d bytes, %v", len(text), err)
				}
				shm := fmt.Sprintf("/proc/%d/root/dev/shm/x", h.task(t, id).Pid())
				if err := os.Mkdir(shm, 0o700); !errors.Is(err, unix.EROFS) {
					t.Errorf("a read-only directory: %v", err)
				}
				h.set(t, id, "masked_paths/"+path+"=visible", "readonly_paths//dev/shm=writable")
				if text, err := os.ReadFile(inside); err != nil || string(text) != string(before) {
					t.Errorf("shown: %d bytes, %v", len(text), err)
				}
				if err := os.Mkdir(shm, 0o700); errors.Is(err, unix.EROFS) { // a mapped root's directory refuses the host's for another reason
					t.Error(err)
				}
				_ = os.Remove(shm)
			}
		})
	}
	if text, err := os.ReadFile(hostFile); err != nil || string(text) != "of the host" {
		t.Errorf("the host's file: %q, %v", text, err)
	}
}

func filesRefused(t *testing.T, h *host) {
	id := h.start(t, sh("sleep 1000"))
	if why := h.refusal(t, id, "masked_paths//nothing=masked", "masked_paths//etc/passwd=masked"); !strings.Contains(why, "/nothing does not exist") {
		t.Errorf("refused because %s", why)
	}
	if out := h.exec(id, "cat", "/etc/passwd").Stdout; out == "" {
		t.Error("half of it was done")
	}
}

// TestAdaptDevices opens and closes devices of running containers.
func TestAdaptDevices(t *testing.T) {
	h := newHost(t)
	id := h.start(t, sh("sleep 1000"))
	const zero, other = "head -c 1 /dev/zero | wc -c", "mknod /tmp/x c 250 7 2>/dev/null; cat /tmp/x"
	h.says(t, id, zero, "1\n")
	h.set(t, id, "devices/c:1:5=none")
	h.says(t, id, "cat /dev/zero", "error Operation not permitted")
	h.says(t, id, "head -c 1 /dev/urandom | wc -c; echo > /dev/null", "1\n")
	if err := h.update(t, id, memory(64<<20)); err != nil { // runc leaves devices alone
		t.Fatal(err)
	}
	h.says(t, id, "cat /dev/zero", "error Operation not permitted")
	h.set(t, id, "devices/c:1:5=r")
	h.says(t, id, zero, "1\n")
	h.says(t, id, "echo > /dev/zero", "error Operation not permitted")
	h.set(t, id, "devices/c:1:5=rwm")
	h.says(t, id, "echo > /dev/zero", "")

	h.says(t, id, "mkdir -p /tmp; "+other, "error Operation not permitted")
	h.set(t, id, "devices/c:250:7=r")
	h.says(t, id, other, "error No such device")
	h.says(t, id, "echo > /tmp/x", "error Operation not permitted")
	h.set(t, id, "devices/c:250:7=none", "devices/c:1:5=none")
	h.says(t, id, other, "error Operation not permitted")
	h.says(t, id, "cat /dev/zero", "error Operation not permitted")
	h.says(t, id, "head -c 1 /dev/urandom | wc -c; echo > /dev/null", "1\n")
	h.set(t, id, "devices/c:1:5=rwm")
	h.says(t, id, zero, "1\n")
	if why := h.refusal(t, id, "devices/c:136:0=none"); !strings.Contains(why, "all of c:136:*") {
		t.Errorf("refused because %s", why)
	}

	id = h.start(t, sh("sleep 1000", annotate("devices.deny", "c:1:5"), annotate("devices.allow", "c:250:7"))) // runc opens it whatever the spec says
	h.says(t, id, "cat /dev/zero", "error Operation not permitted")
	h.says(t, id, "mkdir -p /tmp; "+other, "error Operation not permitted") // no profile grants that
	h.explain(t, id).want(t, "devices/c:1:5", "none", "request")
}

// TestAdaptExecs: what clients execute follows the policy of now.
func TestAdaptExecs(t *testing.T) {
	h := newHost(t)
	id := h.start(t, sh("sleep 1000"))
	const bounding = "grep CapBnd /proc/self/status | tr -d '\t\n'"
	before := h.exec(id, "sh", "-c", bounding).Stdout
	h.set(t, id, "capabilities/CAP_NET_RAW=dropped", "capabilities/CAP_SYS_TIME=kept", "no_new_privileges=on")
	after := h.exec(id, "sh", "-c", bounding).Stdout
	var was, is uint64
	_, _ = fmt.Sscanf(before, "CapBnd:%x", &was)
	_, _ = fmt.Sscanf(after, "CapBnd:%x", &is)
	if netRaw, sysTime := uint64(1)<<13, uint64(1)<<25; was&netRaw == 0 || was&sysTime != 0 || is != was&^netRaw|sysTime {
		t.Errorf("before %s, after %s", before, after)
	}
	h.says(t, id, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n")
	h.set(t, id, "capabilities/CAP_NET_RAW=kept", "capabilities/CAP_SYS_TIME=dropped", "no_new_privileges=off")
	h.says(t, id, bounding, before)
	h.says(t, id, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n")

	h.set(t, id, "exec=non-root")
	h.says(t, id, "true", "error exec = non-root by operator")
	if r := h.Ctr("task", "exec", "--user", "1000", "--exec-id", h.newID("x"), id, "id", "-u"); r.Stdout != "1000\n" {
		t.Errorf("another user: %q %v", r.Stdout, r.Check())
	}
	h.set(t, id, "exec=off")
	if r := h.Ctr("task", "exec", "--user", "1000", "--exec-id", h.newID("x"), id, "id", "-u"); !strings.Contains(r.Stderr, "exec = off") {
		t.Errorf("exec is off: %q %q", r.Stdout, r.Stderr)
	}
	h.set(t, id, "exec=on")
	h.says(t, id, "id -u", "0\n")
}

// TestActions freezes, thaws and kills.
func TestActions(t *testing.T) {
	h := newHost(t, harness.WithImages("busybox"))
	id := h.start(t, sh("while :; do echo x >> /dev/shm/log; sleep 0.02; done"))
	act := func(a api.Action) {
		t.Helper()
		h.adjust(t, string(a), id, "--reason", "ticket 4711")
	}
	status := func() client.ProcessStatus {
		t.Helper()
		s, err := h.task(t, id).Status(h.context(t))
		if err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	log := fmt.Sprintf("/proc/%d/root/dev/shm/log", h.task(t, id).Pid())
	size := func() int64 {
		info, err := os.Stat(log)
		if err != nil {
			return -1
		}
		return info.Size()
	}
	eventually(t, "its work", func() bool { return size() > 0 })
	for range 3 {
		act(api.ActionFreeze)
		if s := status(); s != client.Paused {
			t.Errorf("containerd sees it %s", s)
		}
		if n := size(); within(200e6, func() bool { return size() != n }) {
			t.Error("it works on")
		}
		act(api.ActionThaw)
		if s := status(); s != client.Running {
			t.Errorf("containerd sees it %s", s)
		}
		n := size()
		eventually(t, "more work", func() bool { return size() > n })
	}
	act(api.ActionFreeze)
	act(api.ActionFreeze) // again is no error
	act(api.ActionKill)   // a frozen container can be killed
	eventually(t, "its end", func() bool { return status() == client.Stopped })
	eventually(t, "the events", func() bool {
		seen := map[string]int{}
		for _, e := range h.events(t, id) {
			if strings.Contains(e.Message, "by operator") && strings.HasSuffix(e.Message, ": ticket 4711") {
				seen[e.Kind]++
			}
		}
		return seen["frozen"] == 4 && seen["thawed"] == 3 && seen["killed"] == 1
	})
}
