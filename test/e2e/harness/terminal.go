package harness

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/console"
)

// The size of the terminals of tests: one that nothing has of itself.
const (
	TerminalHeight = 33
	TerminalWidth  = 101
)

// OnTerminal runs a command on a terminal of its own, of TerminalHeight and TerminalWidth. Once prompt is on the screen it types
// script, as it stands. It returns the exit status and what appeared on the screen, in which lines end with CR and LF. Standard input,
// output and error of the command must not be set; its context bounds the time.
func OnTerminal(cmd *exec.Cmd, prompt, script string) (code int, screen string, err error) {
	master, path, err := console.NewPty()
	if err != nil {
		return -1, "", fmt.Errorf("terminal: %w", err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Height: TerminalHeight, Width: TerminalWidth}); err != nil {
		return -1, "", fmt.Errorf("terminal: %w", err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return -1, "", fmt.Errorf("terminal: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	_ = slave.Close()
	if err != nil {
		return -1, "", err
	}
	shown, read := &shownText{}, make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(shown, master) // ends with EIO once the command has ended
	}()
	for !strings.Contains(shown.String(), prompt) && !ended(read) {
		time.Sleep(10 * time.Millisecond)
	}
	_, typed := io.WriteString(master, script)
	if ended(read) {
		typed = nil // nobody was there any more: what it showed says why
	}
	_ = cmd.Wait()
	<-read
	return cmd.ProcessState.ExitCode(), shown.String(), typed
}

func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// shownText may be read while it is written.
type shownText struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (s *shownText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shownText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
