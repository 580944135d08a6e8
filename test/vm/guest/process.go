package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/vm/wire"
)

// newGroup makes the cgroup of one step: like that of a service of a real machine, and not the root, which cannot be
// looked at like any other. Each step has its own: Linux 6.12 kills at once what is started directly in a group that was
// killed once.
func newGroup() (*os.File, error) {
	dir, err := os.MkdirTemp(cgroupRoot, "vm-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// killGroup ends what a step has left in its group.
func killGroup(group *os.File) error {
	return os.WriteFile(filepath.Join(group.Name(), "cgroup.kill"), []byte("1"), 0)
}

func forkExec(path string, step wire.Step, env []string, group, stdin, stdout, stderr *os.File) (int, error) {
	return syscall.ForkExec(path, step.Args, &syscall.ProcAttr{
		Dir: step.Dir, Env: env,
		Files: []uintptr{stdin.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())},
	})
}

// lookPath finds a command as a shell in dir would, by the PATH of env.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if filepath.IsAbs(name) {
			return name, nil
		}
		return filepath.Join(dir, name), nil
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range env {
		if after, ok := strings.CutPrefix(v, "PATH="); ok {
			search = after
		}
	}
	for _, d := range filepath.SplitList(search) {
		path := filepath.Join(d, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in %s", name, search)
}
