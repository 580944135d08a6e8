package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
)

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	pollInterval = 10 * time.Millisecond
)

// unusedPlugins are switched off for a quick start, under all the names they had. The CRI ones stay with WithCRI, the restart
// monitor with WithRestarts.
var (
	unusedPlugins = []string{
		"io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
		"io.containerd.snapshotter.v1.aufs",
		"io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
		"io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.zfs",
	}
	restartPlugins = []string{"io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart"}
	criPlugins     = []string{
		"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
		"io.containerd.podsandbox.controller.v1.podsandbox",
	}
)

func (e *Env) writeConfigs() error {
	forefend := fmt.Sprintf("root = %q\nstate = %q\n%s", filepath.Join(e.Dir, "forefend"), filepath.Join(e.Dir, "run"), e.options.forefend)
	if err := os.WriteFile(e.ConfigPath, []byte(forefend), 0o600); err != nil {
		return err
	}
	return e.writeContainerdConfig()
}

func (e *Env) writeContainerdConfig() error {
	text := e.engine.config(e.Dir, e.Address, e.options) + e.options.containerd
	if e.options.cri {
		snippet, err := e.handlerSnippet()
		if err != nil {
			return err
		}
		text += "\n" + snippet
	}
	return os.WriteFile(filepath.Join(e.Dir, "containerd.toml"), []byte(text), 0o600)
}

// ContainerdLog is the path of containerd's log, which holds the shims' output too.
func (e *Env) ContainerdLog() string { return filepath.Join(e.Dir, "containerd.log") }

// DaemonLog is the path of the log of Forefend's daemon, if one was started.
func (e *Env) DaemonLog() string { return filepath.Join(e.Dir, "forefend", "daemon.log") }

// TunnelsLog is the path of tunneld's log, if one was started.
func (e *Env) TunnelsLog() string { return filepath.Join(e.Dir, "forefend", "tunneld.log") }

// containerd is a running daemon.
type containerd struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed once the process was waited for
}

// heedHangup keeps what nohup(1) did to a test from its containers: an ignored SIGHUP is inherited, and whether runc passes it on
// depends on how fast its goroutines are.
func heedHangup() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
}

// startContainerd starts the daemon, waits until it serves, and begins to note container ids.
func (e *Env) startContainerd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// The socket of one that was killed would make connect wait for an answer.
	if err := os.Remove(e.Address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	log, err := os.OpenFile(e.ContainerdLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	heedHangup()
	cmd := exec.Command(e.binary("containerd"), "--config", filepath.Join(e.Dir, "containerd.toml"))
	cmd.Env = append(e.environ(), e.options.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: an interrupt from the terminal ends the test, whose Close then ends containerd in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := e.InNetwork(cmd.Start); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	d := &containerd{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(d.exited)
	}()
	e.daemon = d
	if err := e.connect(ctx); err != nil {
		return fmt.Errorf("containerd does not answer: %w\n%s", err, tail(e.ContainerdLog(), 2000))
	}
	return e.watchIDs()
}

// connect waits until containerd serves.
func (e *Env) connect(ctx context.Context) error {
	serving := func() bool {
		c, err := client.New(e.Address, client.WithTimeout(time.Second))
		if err != nil {
			return false
		}
		if ok, err := c.IsServing(ctx); err != nil || !ok {
			_ = c.Close()
			return false
		}
		e.client = c
		return true
	}
	for {
		if _, err := os.Stat(e.Address); err == nil && serving() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.daemon.exited:
			return errors.New("it ended at once")
		case <-time.After(pollInterval):
		}
	}
}

// RestartContainerd ends containerd with sig, waits for its end and starts it again; shims live on meanwhile.
// What is to happen in between is done by the functions. No other method may run at the same time.
func (e *Env) RestartContainerd(ctx context.Context, sig syscall.Signal, meanwhile ...func()) error {
	if err := e.stopContainerd(sig); err != nil {
		return err
	}
	for _, f := range meanwhile {
		f()
	}
	return e.startContainerd(ctx)
}

// ChangeContainerd ends containerd with SIGTERM and starts another version over the same state, as an upgrade of a node
// does; shims live on meanwhile. No other method may run at the same time.
func (e *Env) ChangeContainerd(ctx context.Context, version string) error {
	g, err := engineOf(version)
	if err != nil {
		return err
	}
	if err := e.stopContainerd(unix.SIGTERM); err != nil {
		return err
	}
	e.engine = g
	if err := errors.Join(e.require(), e.writeContainerdConfig()); err != nil {
		return err
	}
	return e.startContainerd(ctx)
}

// stopContainerd ends containerd, by force if it does not go by itself.
func (e *Env) stopContainerd(sig syscall.Signal) error {
	if e.stopIDs != nil {
		e.stopIDs()
		e.watcher.Wait()
		e.stopIDs = nil
	}
	if e.client != nil {
		_ = e.client.Close()
		e.client = nil
	}
	if e.daemon == nil {
		return nil
	}
	d := e.daemon
	e.daemon = nil
	_ = d.cmd.Process.Signal(sig)
	select {
	case <-d.exited:
		return nil
	case <-time.After(stopTimeout):
	}
	_ = d.cmd.Process.Signal(unix.SIGKILL)
	<-d.exited
	return fmt.Errorf("containerd did not end within %s of %v", stopTimeout, sig)
}

// tail returns the last n bytes of a file, for an error message.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return string(b)
}
