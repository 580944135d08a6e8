package doctor

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// call is a system call that Forefend makes, and what it makes it for.
type call struct {
	name  string
	since string // Linux version
	try   func() error
	cost  string
}

// needed are the calls that older kernels, or filters around this process, lack.
var needed = []call{
	{"openat2", "5.6", tryOpenat2, "the program in an image is not identified: history of the same code in other images takes no part"},
	{"pidfd_open", "5.3", tryPidfd, "connections of a container are counted without their destinations"},
}

func callRows(calls []call) (rows []Row) {
	for _, c := range calls {
		err := c.try()
		if err == nil {
			rows = append(rows, ok(c.name, "works"))
			continue
		}
		fix := "Linux " + c.since + " or newer"
		if !errors.Is(err, unix.ENOSYS) {
			fix = "look for a seccomp profile or a security module around containerd that denies it"
		}
		rows = append(rows, degraded(c.name, err.Error(), c.cost, fix))
	}
	return rows
}

func tryOpenat2() error {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return fmt.Errorf("openat2: %w", err)
	}
	return unix.Close(fd)
}

func tryPidfd() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	return unix.Close(fd)
}
