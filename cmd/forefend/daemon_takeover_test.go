package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// service runs the daemon as the unit does: in the foreground, taking over, with somebody to notify.
type service struct {
	*exec.Cmd
	notify *net.UnixConn
}

func (s *site) service(t *testing.T) service {
	t.Helper()
	path := filepath.Join(filepath.Dir(s.Path), fmt.Sprintf("notify%d", time.Now().UnixNano()))
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	cmd := s.command("daemon", "--takeover")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
	log, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return service{cmd, conn}
}

// hears waits for a word to the service manager.
func (s service) hears(t *testing.T, want string) {
	t.Helper()
	if err := s.notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 1024)
	n, err := s.notify.Read(text)
	if err != nil || string(text[:n]) != want {
		t.Fatalf("the service manager is told %q (%v), want %q", text[:n], err, want)
	}
}

// A daemon that a shim started hands over to the service, which loses nothing of what it knew.
func TestServiceTakesOver(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	life(t, s.client(t), "before")
	old := s.daemon(t)
	unit := s.service(t)
	unit.hears(t, "READY=1")
	s.gone(t, old)
	c := s.client(t)
	if st := statusOf(t, c); st.PID != unit.Process.Pid || st.Runs != 1 {
		t.Errorf("%+v, the service is %d", st, unit.Process.Pid)
	}
	life(t, c, "after")
	// It stays where the service manager has put it: in the cgroups of this test, its parent.
	ours, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if its, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", unit.Process.Pid)); err != nil || string(its) != string(ours) {
		t.Errorf("%v: cgroups\n%s, not\n%s", err, its, ours)
	}
	// Shims that find no daemon start none beside it.
	s.detach(t)
	if pid := s.daemon(t); pid != unit.Process.Pid {
		t.Errorf("process %d is the daemon", pid)
	}
	if err := unit.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	unit.hears(t, "STOPPING=1")
	if err := unit.Wait(); err != nil {
		t.Errorf("stopped by its manager: %v", err)
	}
	// Stopped or not, containers start, and the next start of the service succeeds.
	s.detach(t)
	again := s.service(t)
	again.hears(t, "READY=1")
	if st := statusOf(t, s.client(t)); st.PID != again.Process.Pid || st.Runs != 2 {
		t.Errorf("%+v", st)
	}
}

// After an upgrade the new binary's daemon replaces the old one's in the background, too.
func TestDetachedTakeOver(t *testing.T) {
	s := newSite(t)
	takeOver := func() {
		t.Helper()
		if out, err := s.command("daemon", "--detach", "--takeover", "--ready-timeout", "60s").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	takeOver() // nobody is there: that is fine
	first := s.daemon(t)
	takeOver()
	s.gone(t, first)
	if st := statusOf(t, s.client(t)); st.PID == first || st.PID != s.daemon(t) {
		t.Errorf("%d then %+v", first, st)
	}
}

// One that does not end when asked is made to.
func TestTakeOverFromAHungDaemon(t *testing.T) {
	s := newSite(t)
	s.detach(t)
	hung := s.daemon(t)
	if err := unix.Kill(hung, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	unit := s.service(t)
	unit.hears(t, "READY=1")
	s.gone(t, hung)
}

func TestDaemonStop(t *testing.T) {
	s := newSite(t)
	stop := func() string {
		t.Helper()
		out, err := s.command("daemon", "--stop").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := stop(); !strings.Contains(out, "no forefend daemon is running") {
		t.Errorf("%q", out)
	}
	s.detach(t)
	pid := s.daemon(t)
	if out := stop(); out != "" {
		t.Errorf("%q", out)
	}
	s.gone(t, pid) // its lock is free; the process may be on its last steps
	// A process id that a killed daemon left may be anybody's by now.
	innocent := exec.Command("sleep", "1000")
	if err := innocent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = innocent.Process.Kill()
		_ = innocent.Wait()
	}()
	if err := os.WriteFile(s.Lock(), fmt.Appendln(nil, innocent.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := stop(); !strings.Contains(out, "no forefend daemon is running") {
		t.Errorf("%q", out)
	}
	s.detach(t)
	if err := innocent.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("somebody else was ended: %v", err)
	}
	var exit *exec.ExitError
	if out, err := s.command("daemon", "--stop", "--detach").CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != exitUsage {
		t.Errorf("%v: %s", err, out)
	}
}
