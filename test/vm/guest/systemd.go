package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"forefend.dev/forefend/test/vm/wire"
)

const (
	systemd = "/lib/systemd/systemd"
	// request is where the first process leaves the request for the one that goes on.
	request = "/run/vm-request.json"
	portFD  = 3
)

// handOver makes systemd the first process and lets a child of this one go on with the request, over the same port.
func handOver(port *os.File, r wire.Request) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(request, body, 0o600); err != nil {
		return err
	}
	// Nobody logs in, and without udev the terminals would be waited for in vain.
	for _, unit := range []string{"serial-getty@ttyS0.service", "getty@tty1.service"} {
		if err := os.Symlink(os.DevNull, "/etc/systemd/system/"+unit); err != nil {
			return err
		}
	}
	_, err = syscall.ForkExec("/proc/self/exe", []string{Path}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2, port.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start the process that goes on: %w", err)
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8"}
	return fmt.Errorf("become systemd: %w", syscall.Exec(systemd, []string{systemd, "--unit=multi-user.target"}, env))
}

// continued is what that child does: once systemd has started its units, what the first process would have done.
func continued() error {
	c := wire.New(os.NewFile(portFD, Port))
	err := func() error {
		body, err := os.ReadFile(request)
		if err != nil {
			return err
		}
		var r wire.Request
		if err := json.Unmarshal(body, &r); err != nil {
			return err
		}
		if err := settled(); err != nil {
			return err
		}
		return runAll(c, r)
	}()
	if err != nil {
		return errors.Join(err, c.Write(wire.Failed, []byte(err.Error())))
	}
	return nil
}

// settled waits until systemd has started what there is to start. A unit that failed is no reason to stop: the message
// bus is what matters, and whoever needs more finds out.
func settled() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // the host gives up earlier
	defer cancel()
	for begin := time.Now(); ; time.Sleep(time.Second) {
		state := systemctl(ctx, "is-system-running")
		switch {
		case state == "running" || state == "degraded":
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("systemd does not come up, it is %q", state)
		case time.Since(begin) > 30*time.Second: // on the console, for whoever wonders
			fmt.Fprintf(os.Stderr, "systemd is %q after %.0f s; jobs: %s\n", state, time.Since(begin).Seconds(), systemctl(ctx, "list-jobs", "--no-legend"))
		}
	}
}

// systemctl returns what it prints; its exit status says less.
func systemctl(ctx context.Context, args ...string) string {
	cmd := exec.CommandContext(ctx, "/usr/bin/systemctl", args...)
	out, err := cmd.CombinedOutput()
	if len(out) == 0 && err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}
