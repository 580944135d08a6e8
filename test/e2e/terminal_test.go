package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/console"
)

// onTerminal runs ctr on a terminal of 101 columns and types script into it. It returns the exit status and what
// appeared on the screen.
func onTerminal(t *testing.T, h *host, args []string, script string) (int, string) {
	t.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Height: 33, Width: 101}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := h.CtrCommand(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = slave.Close()
	screen, read := &screenBuffer{}, make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(screen, master) // ends with EIO once ctr has ended
	}()
	// The shell's prompt says that it reads.
	eventually(t, "a prompt", func() bool { return strings.Contains(screen.String(), "# ") })
	if _, err := io.WriteString(master, script); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	<-read
	return cmd.ProcessState.ExitCode(), screen.String()
}

// screenBuffer may be read while it is written.
type screenBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (s *screenBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screenBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// typed asks the shell about its terminal. The echo of what is typed does not hold the answers.
const typed = "test -t 0 && test -t 1 && echo is-a-$((1))-terminal; stty size; echo $((40+2))-lines; exit 5\n"

func terminal(t *testing.T, h *host, runtime string) {
	c := container{args: []string{"sh"}}.under(runtime).named(h.newID("tty"))
	code, screen := onTerminal(t, h, c.command(h, "--rm", "-t"), typed)
	checkTerminal(t, code, screen)
}

func execTerminal(t *testing.T, h *host, runtime string) {
	id := h.start(t, sh("sleep 1000").under(runtime))
	code, screen := onTerminal(t, h, []string{"task", "exec", "-t", "--exec-id", "tty", id, "sh"}, typed)
	checkTerminal(t, code, screen)
}

func checkTerminal(t *testing.T, code int, screen string) {
	t.Helper()
	for _, want := range []string{"is-a-1-terminal", "33 101", "42-lines"} {
		if !strings.Contains(screen, want) {
			t.Errorf("no %q on the screen:\n%s", want, screen)
		}
	}
	if code != 5 {
		t.Errorf("exit status %d", code)
	}
}
