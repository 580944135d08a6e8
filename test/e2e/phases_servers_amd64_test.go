package e2e

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
)

// real is a real server, what it must still do once it serves, and how one sees that it was done.
type real struct {
	container
	ready []string
	reload, rotate,
	done []string
}

// TestPhasesOfServers: nginx and redis still reload, rotate their logs and make backups once they serve; a program that the server's
// own process executes, as one that was taken over would, is denied then, and is one event with the process tree.
func TestPhasesOfServers(t *testing.T) {
	h := newHost(t, harness.WithImages("nginx", "redis"), harness.WithConfig(quickPhases))
	nginx := real{
		container: container{image: "nginx", args: []string{"nginx", "-g", "daemon off; error_log /tmp/error.log;"}},
		ready:     []string{"sh", "-c", "test -s /run/nginx.pid"},
		reload:    []string{"nginx", "-s", "reload"},
		rotate:    []string{"sh", "-c", "mv /tmp/error.log /tmp/old && nginx -s reopen"},
		done:      []string{"test", "-e", "/tmp/error.log"},
	}
	redis := real{
		container: container{image: "redis", args: []string{"redis-server", "--save", "", "--dir", "/data"}},
		ready:     []string{"redis-cli", "ping"},
		reload:    []string{"redis-cli", "config", "set", "maxmemory", "100mb"},
		rotate:    []string{"redis-cli", "bgsave"},
		done:      []string{"test", "-s", "/data/dump.rdb"},
	}
	for name, s := range map[string]real{"nginx": nginx, "redis": redis} {
		t.Run(name, func(t *testing.T) { h.servesOn(t, s) })
	}
}

func (h *host) servesOn(t *testing.T, s real) {
	for range 5 {
		h.remove(h.serving(t, s))
	}
	id := h.serving(t, s)
	eventually(t, "the policy of a serving workload", func() bool { return h.saw(t, id, "phase", "refused from now on") })
	h.explain(t, id).want(t, "serving/execve", "deny", "default")
	pid := h.newest(t, id)
	if errno := hijack(t, pid, "/bin/sh"); errno != unix.EPERM {
		t.Errorf("a shell of a serving process: %v", errno)
	}
	told := func() []event {
		return slices.DeleteFunc(h.events(t, id), func(e event) bool { return e.Kind != "denied" || e.Fields["syscall"] != "execve" })
	}
	eventually(t, "an event", func() bool { return len(told()) > 0 })
	if all := told(); len(all) != 1 || all[0].Fields["phase"] != "serving" || !strings.Contains(all[0].Message, "/bin/sh") ||
		!strings.Contains(all[0].Fields["tree"], s.args[0]) {
		t.Errorf("told: %+v", all)
	}
	for _, work := range [][]string{s.reload, s.rotate} {
		if err := h.exec(id, work...).Check(); err != nil {
			t.Errorf("%q: %v\n%s", work, err, h.refused(t, id))
		}
	}
	eventually(t, "it is done", func() bool { return h.exec(id, s.done...).Code == 0 })
	if err := h.exec(id, s.ready...).Check(); err != nil {
		t.Errorf("it does not serve any more: %v", err)
	}
	h.adjust(t, "set", id, "mode=enforce")
	eventually(t, "it is closed again", func() bool { // a reload opens what a start may do, for a while
		time.Sleep(2 * time.Second)
		return !h.lets(t, id, "/bin/none")
	})
}

// serving starts a server, and returns once it has served for a while.
func (h *host) serving(t *testing.T, s real) string {
	t.Helper()
	id := h.start(t, s.container)
	eventually(t, "it serves", func() bool { return h.saw(t, id, "phase", "it serves") && h.exec(id, s.ready...).Code == 0 })
	time.Sleep(300 * time.Millisecond)
	return id
}

// newest is the process of a server that was started last: with workers, one of them.
func (h *host) newest(t *testing.T, id string) int {
	t.Helper()
	pids, err := h.task(t, id).Pids(h.context(t))
	if err != nil || len(pids) == 0 {
		t.Fatal(err)
	}
	var last uint32
	for _, p := range pids {
		last = max(last, p.Pid)
	}
	return int(last)
}

// lets reports whether a serving process may execute a program that is not there.
func (h *host) lets(t *testing.T, id, program string) bool {
	t.Helper()
	errno := hijack(t, h.newest(t, id), program)
	if errno != unix.EPERM && errno != unix.ENOENT {
		t.Fatalf("execve of %s: %v", program, errno)
	}
	return errno == unix.ENOENT
}

// hijack has a process that waits in a system call execute a program, as code does that was brought into it, and lets it go on as if a
// signal had come. It returns what the kernel said; a success ends the test.
func hijack(t *testing.T, pid int, program string) unix.Errno {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("hijack process %d: %s: %v", pid, what, err)
		}
	}
	stopped := func(what string) {
		t.Helper()
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		must(what, err)
		if !status.Stopped() {
			t.Fatalf("hijack process %d: %s: it ended, %#x", pid, what, status)
		}
	}
	must("attach", unix.PtraceAttach(pid))
	stopped("attach")
	var before, regs unix.PtraceRegs
	must("registers", unix.PtraceGetRegs(pid, &before))
	code := make([]byte, 2)
	_, err := unix.PtracePeekText(pid, uintptr(before.Rip-2), code)
	must("code", err)
	if !bytes.Equal(code, []byte{0x0f, 0x05}) { // syscall
		_ = unix.PtraceDetach(pid)
		t.Fatalf("process %d does not wait in a system call", pid)
	}
	text := append([]byte(program), 0)
	at := (before.Rsp - 4096) &^ 15 // below all that it uses
	_, err = unix.PtracePokeData(pid, uintptr(at), append(text, make([]byte, 16)...))
	must("stack", err)
	regs = before
	regs.Rax, regs.Orig_rax, regs.Rip = unix.SYS_EXECVE, ^uint64(0), before.Rip-2
	regs.Rdi, regs.Rsi, regs.Rdx = at, 0, 0
	must("registers", unix.PtraceSetRegs(pid, &regs))
	for _, what := range []string{"the call begins", "the call ends"} {
		must(what, unix.PtraceSyscall(pid, 0))
		stopped(what)
	}
	must("registers", unix.PtraceGetRegs(pid, &regs))
	result := int64(regs.Rax)
	interrupted := -int64(unix.EINTR)
	before.Rax, before.Orig_rax = uint64(interrupted), ^uint64(0)
	must("registers", unix.PtraceSetRegs(pid, &before))
	must("detach", unix.PtraceDetach(pid))
	if result >= 0 {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		t.Fatalf("process %d executes %s", pid, exe)
	}
	return unix.Errno(-result)
}
