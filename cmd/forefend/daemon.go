package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/cmd/internal/config"
	"forefend.dev/forefend/runtime/orchestrator/api"
)

// maxLog is the size from which a starting daemon begins a new log; the one
// before it is kept as .1.
const maxLog = 8 << 20

// errBusy says that another daemon of the same config serves already.
var errBusy = errors.New("another forefend daemon of this configuration is running")

func newDaemonCommand(a *app) *cobra.Command {
	var detach, takeover, stop bool
	var timeout time.Duration
	var ready int
	c := &cobra.Command{
		Use:   "daemon",
		Short: "Run the node daemon (the shim starts it when there is none)",
		Long: "Run the Policy Orchestration Service of this node in the foreground, or with --detach in the\n" +
			"background. One daemon serves one configuration; a second one says so and ends, or with --takeover\n" +
			"ends the first and takes its place. Containers are not affected by any of that.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.FromEnv()
			if err != nil {
				return err
			}
			switch {
			case stop && (detach || takeover):
				return usage(cmd, errors.New("--stop goes with no other flag"))
			case stop:
				return a.stop(cmd.Context(), cfg.Lock(), "forefend daemon")
			case detach:
				return detachDaemon(cmd.Context(), cfg, timeout, takeover)
			}
			return runDaemon(cmd.Context(), cfg, ready, takeover)
		},
	}
	c.Flags().BoolVar(&detach, "detach", false, "start the daemon in the background and return once it serves")
	c.Flags().BoolVar(&takeover, "takeover", false, "end the daemon that runs already, if any, and take its place")
	c.Flags().BoolVar(&stop, "stop", false, "end the running daemon; the next container starts another")
	c.Flags().DurationVar(&timeout, "ready-timeout", 10*time.Second, "with --detach: how long to wait for it")
	c.Flags().IntVar(&ready, "ready-fd", 0, "write \"ready\" to this descriptor once serving")
	_ = c.Flags().MarkHidden("ready-fd") // it exists: registered the line above
	return c
}

// detachDaemon starts the daemon in the background and waits until it, or another
// one, serves. One that holds the lock and does not serve may be about to end, so
// it tries again.
func detachDaemon(ctx context.Context, cfg *config.Config, timeout time.Duration, takeover bool) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := startDetached(ctx, cfg, takeover)
		if !errors.Is(err, errBusy) {
			return err
		}
		if err = awaitOther(ctx, cfg); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("another daemon holds %s but does not serve: %w", cfg.Lock(), err)
		}
	}
}

// startDetached starts the daemon in a session of its own and waits for its word.
func startDetached(ctx context.Context, cfg *config.Config, takeover bool) error {
	args := []string{"daemon", "--ready-fd", "3"}
	if takeover {
		args = append(args, "--takeover")
	}
	pipe, err := spawn(cfg, cfg.Log(), args...)
	if err != nil {
		return err
	}
	defer pipe.Close()
	return awaitReady(ctx, cfg, pipe)
}

// spawn starts a process of this program in a session of its own, with a log. It says a word on descriptor 3 once it serves, which
// comes by the pipe.
func spawn(cfg *config.Config, logPath string, args ...string) (*os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find my own binary: %w", err)
	}
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("create the root directory: %w", err)
	}
	if info, err := os.Stat(logPath); err == nil && info.Size() > maxLog {
		_ = os.Rename(logPath, logPath+".1") // a log that cannot be turned grows on
	}
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of forefend %s: %w", args[0], err)
	}
	defer logFile.Close()
	mine, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("ready pipe: %w", err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", logFile, logFile
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}
	if cfg.Path != "" {
		cmd.Env = append(cmd.Env, "FOREFEND_CONFIG="+cfg.Path)
	}
	cmd.ExtraFiles = []*os.File{theirs}
	// Whatever containerd was started with and did not mark, what we start must not keep open.
	err = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err = cmd.Start()
	}
	theirs.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start forefend %s: %w", args[0], err), mine.Close())
	}
	go func() { _ = cmd.Wait() }() // it outlives us, or ends before
	return mine, nil
}

// awaitReady reads the daemon's word from its ready pipe. It returns errBusy when
// another daemon holds the lock.
func awaitReady(ctx context.Context, cfg *config.Config, pipe *os.File) error {
	said, err := hear(ctx, pipe)
	switch {
	case said == "ready":
		return nil
	case said == errBusy.Error():
		return errBusy
	case said != "":
		return errors.New(said)
	}
	return fmt.Errorf("the daemon ended or hung before it served (%w); see %s", err, cfg.Log())
}

// hear reads the word of a process that starts.
func hear(ctx context.Context, pipe *os.File) (string, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = pipe.SetReadDeadline(deadline) // pipes support deadlines
	}
	line := make([]byte, 1024)
	n, err := pipe.Read(line)
	return strings.TrimSpace(string(line[:n])), err
}

// readySayer is how a process tells the one that started it that it serves, or why it does not.
func readySayer(fd int) func(string) {
	if fd <= 2 {
		return func(string) {}
	}
	pipe := os.NewFile(uintptr(fd), "ready")
	unix.CloseOnExec(fd)
	return func(s string) {
		_, _ = pipe.WriteString(s + "\n") // nobody may be listening any more
		_ = pipe.Close()
	}
}

// oneLine is an error for a ready pipe.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// awaitOther waits, for a while, until the daemon that holds the lock answers. A
// connection alone proves nothing: the socket of a dying daemon takes them still.
func awaitOther(ctx context.Context, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := answers(ctx, cfg.Socket())
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, socket string) error {
	c, err := api.Dial(ctx, socket)
	if err != nil {
		return err
	}
	_, err = c.Status(ctx)
	return errors.Join(err, c.Close())
}

// runDaemon is the daemon itself. Its readiness, or the reason it cannot
// serve, goes to the ready descriptor when there is one, and its readiness to the
// service manager that started it.
func runDaemon(ctx context.Context, cfg *config.Config, readyFD int, takeover bool) error {
	say := readySayer(readyFD)
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := setLogging(cfg); err != nil {
		return err
	}
	d, err := openDaemon(ctx, cfg, takeover)
	if err != nil {
		say(oneLine(err))
		if errors.Is(err, errBusy) && readyFD > 2 {
			return nil // the one who asked is told; no news for the log
		}
		return err
	}
	say("ready")
	tellManager(ctx, systemd.SdNotifyReady)
	return d.run(ctx)
}

// underManager tells whether a service manager started this process: it has put it into a cgroup and wants a word.
func underManager() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

func tellManager(ctx context.Context, state string) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.G(ctx).WithError(err).Warn("forefend: the service manager was not told " + state)
	}
}

// stop ends the process that holds a lock; what names it to people.
func (a *app) stop(ctx context.Context, lock, what string) error {
	was, err := stop(ctx, lock)
	if err == nil && !was {
		_, err = fmt.Fprintf(a.stdout, "no %s is running\n", what)
	}
	return err
}
