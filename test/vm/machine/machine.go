// Package machine boots a throw-away virtual machine over this machine's files, has it run commands, and ends it.
//
// Nothing outlives a Run: the emulator and the file server die with the process that called it, however that one dies.
// A Machine is plain data; several may run at once.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"forefend.dev/forefend/test/vm/debian"
	"forefend.dev/forefend/test/vm/wire"
)

// Machine is how a virtual machine is to be made.
type Machine struct {
	Image   debian.Image
	Self    string // the binary that is the guest's first process and, on the host, shares the root: see Share
	Dir     string // where each run has a directory of its own while it lasts
	Visible string // a path that the guest must see, whatever file system it is on

	CPUs   int
	Memory int   // MiB
	Disk   int64 // bytes of the disk for temporary files; 0: they are in memory

	Boot    time.Duration // for the guest to start the first step; then it is booted again
	Tries   int           // boots before giving up
	Silence time.Duration // without a sign of life before a guest counts as dead

	Stdout, Stderr io.Writer
	Log            func(string) // told about what is worth a line
}

// ErrDead means that the guest never ran the request to its end, and not because of it.
var ErrDead = errors.New("the virtual machine died")

// errBoot means that the guest did not come up, which a second try may help.
var errBoot = errors.New("the guest did not come up")

// Run boots a machine, runs r in it and returns the exit status of its steps. The error is ErrDead, or ctx's own when
// that ended first.
func (m Machine) Run(ctx context.Context, r wire.Request) (int, error) {
	sweep(m.Dir)
	for try := 1; ; try++ {
		status, err := m.once(ctx, r)
		if !errors.Is(err, errBoot) || ctx.Err() != nil || try >= m.Tries {
			return status, err
		}
		// With several processors the emulator can lose a timer interrupt, and the guest waits for ever.
		m.Log(fmt.Sprintf("boot %d of %d: %v", try, m.Tries, err))
	}
}

// once is one boot.
func (m Machine) once(ctx context.Context, r wire.Request) (status int, err error) {
	dir, unlock, err := runDir(m.Dir)
	if err != nil {
		return 0, err
	}
	defer unlock()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "control"), Net: "unix"})
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	booting, cancel := context.WithTimeout(ctx, m.Boot)
	defer cancel()
	processes, err := m.start(ctx, dir)
	if err != nil {
		return 0, errors.Join(ErrDead, err)
	}
	defer processes.end()
	g := guestSide{m: m, request: r, booted: cancel}
	result := make(chan error, 1)
	go func() { result <- g.talk(listener) }()

	select {
	case err = <-result:
	case <-processes.ended:
		// What the guest said last may still be on its way.
		select {
		case err = <-result:
		case <-time.After(time.Second):
			err = errors.New("the emulator ended")
		}
	case <-booting.Done():
		if g.started.Load() {
			select {
			case err = <-result:
			case <-ctx.Done():
				err = ctx.Err()
			}
		} else if err = ctx.Err(); err == nil {
			err = fmt.Errorf("nothing ran within %s", m.Boot)
		}
	}
	processes.end()
	_ = listener.Close()
	switch {
	case err == nil:
		return g.result.Status, nil
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case errors.Is(err, errRefused):
		return 0, fmt.Errorf("%w: %w", ErrDead, err)
	}
	kind := ErrDead
	if !g.started.Load() {
		kind = fmt.Errorf("%w: %w", ErrDead, errBoot)
	}
	return 0, fmt.Errorf("%w: %w\n%s", kind, err, processes.said(dir))
}

// runDir makes the directory of one run. It holds a lock while the run lasts.
func runDir(parent string) (dir string, unlock func(), err error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(parent, dirPrefix); err != nil {
		return "", nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return "", nil, err
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		_ = lock.Close()
	}, nil
}
