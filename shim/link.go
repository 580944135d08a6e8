package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/runtime/orchestrator/api"
)

// link is the shim's connection to the node daemon, which it starts when there
// is none.
type link struct {
	cfg Config

	mu     sync.Mutex
	client *api.Client // guarded by mu; nil when not connected
}

func newLink(cfg Config) *link { return &link{cfg: cfg} }

// connect returns a client of a daemon that runs already.
func (l *link) connect(ctx context.Context) (*api.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		return l.client, nil
	}
	c, err := api.Dial(ctx, l.cfg.Socket)
	if err != nil {
		return nil, err
	}
	l.client = c
	return c, nil
}

// drop forgets a client whose connection failed.
func (l *link) drop(c *api.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == c {
		l.client = nil
	}
	_ = c.Close() // it failed already
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		_ = l.client.Close()
		l.client = nil
	}
}

// call runs fn against the running daemon within the deadline. A connection that
// turns out to be dead is replaced once: the daemon may have been restarted.
func (l *link) call(ctx context.Context, deadline time.Duration, fn func(context.Context, *api.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for try := 0; ; try++ {
		c, err := l.connect(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
		}
		err = fn(ctx, c)
		if err == nil || !broken(err) {
			return err
		}
		l.drop(c)
		if try == 1 {
			return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
		}
	}
}

func broken(err error) bool {
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

// ensure makes sure a daemon runs, starting one if need be. Of many shims that
// call it at once, one starts the daemon and the others wait for it.
func (l *link) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ColdStart)
	defer cancel()
	if _, err := l.connect(ctx); err == nil {
		return nil
	}
	lock, err := lockFile(ctx, l.cfg.StartLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := l.connect(ctx); err == nil {
		return nil // somebody else started it while we waited
	}
	if err := startDaemon(ctx, l.cfg, runReaped); err != nil {
		return err
	}
	_, err = l.connect(ctx)
	return err
}

// lockFile takes an exclusive lock, giving up when ctx ends. Closing the file
// releases it.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("directory of the daemon's start lock: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the daemon's start lock: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another shim is still starting the forefend daemon: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// runner runs a command to its end.
type runner func(*exec.Cmd) error

// runReaped runs cmd through containerd's reaper, which owns wait4 in a shim.
func runReaped(cmd *exec.Cmd) error {
	exits, err := reaper.Default.Start(cmd)
	if err != nil {
		return err
	}
	status, err := reaper.Default.Wait(cmd, exits)
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("exit status %d", status)
	}
	return nil
}

// startDaemon starts the daemon and returns once it, or another one, serves. `forefend
// daemon --detach` puts it into a session of its own and waits for it.
func startDaemon(ctx context.Context, cfg Config, run runner) error {
	cmd := exec.Command(cfg.Daemon, "daemon", "--detach")
	if deadline, ok := ctx.Deadline(); ok {
		cmd.Args = append(cmd.Args, "--ready-timeout", time.Until(deadline).Round(time.Millisecond).String())
	}
	var said head
	cmd.Dir, cmd.Stderr = "/", &said
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}
	if cfg.Path != "" {
		cmd.Env = append(cmd.Env, "FOREFEND_CONFIG="+cfg.Path)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := run(cmd); err != nil {
		return fmt.Errorf("start %s daemon (its log: %s): %w: %s", cfg.Daemon, cfg.DaemonLog, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// head keeps the first KiB of what is written to it.
type head struct{ strings.Builder }

func (t *head) Write(p []byte) (int, error) {
	if room := 1024 - t.Len(); room > 0 {
		t.Builder.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
