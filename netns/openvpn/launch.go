package openvpn

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/netns/enter"
)

// launcher is a thread from which all openvpns start: it has given up the way to new privileges, and its file system has sockets and
// a TUN device that nobody else sees. The kernel ends what it started when it ends, which is with this process.
var launcher struct {
	once sync.Once
	jobs chan func()
	err  error // why there is none
}

// private is where the launcher's own file system is.
const private = "/dev/net"

// launch runs f on the launcher's thread.
func launch(f func() error) error {
	launcher.once.Do(func() {
		launcher.jobs = make(chan func())
		made := make(chan error, 1)
		enter.Thread(func() bool {
			err := seclude()
			made <- err
			if err == nil {
				for job := range launcher.jobs {
					job()
				}
			}
			return false
		})
		launcher.err = <-made
	})
	if launcher.err != nil {
		return launcher.err
	}
	done := make(chan error, 1)
	launcher.jobs <- func() { done <- f() }
	return <-done
}

// seclude makes the thread the launcher's.
func seclude() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("file systems of openvpn's own: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("file systems of openvpn's own: %w", err)
	}
	if err := unix.Mount("forefend", private, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID, "size=64k,mode=0711"); err != nil {
		return fmt.Errorf("%s of openvpn's own (modprobe tun makes the directory): %w", private, err)
	}
	tun := filepath.Join(private, "tun")
	if err := errors.Join(unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))), unix.Chmod(tun, 0o666)); err != nil {
		return fmt.Errorf("a TUN for openvpn: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil { // it would hold keys, as one of this process would
		return fmt.Errorf("keep openvpn from writing core files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("take new privileges from openvpn: %w", err)
	}
	return nil
}

// firstUID is where the users of openvpn processes begin: after those of agents (agent/host), beyond what anybody else gives.
const firstUID = 0xf0ff0000

func chooseUID() uint32 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // it never fails
	return firstUID + uint32(binary.NativeEndian.Uint16(b[:]))%0xfff0
}

// command is openvpn, a user without privileges, which reads its configuration from a pipe.
func command(uid uint32, config io.Reader) (*exec.Cmd, error) {
	path, err := exec.LookPath(Binary)
	if err != nil {
		return nil, fmt.Errorf("tunnels of kind openvpn need Debian's package openvpn: %w", err)
	}
	cmd := exec.Command(path, "--config", "stdin")
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{"PATH=/nonexistent"}, config
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: unix.SIGKILL, Credential: &syscall.Credential{Uid: uid, Gid: uid},
	}
	return cmd, nil
}

// listen makes a socket that a user's processes may connect to, where only openvpns see it. To be called on the launcher's thread.
func listen(path string, uid uint32) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("openvpn's management socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // by another thread it would be another file's name
	if err := errors.Join(os.Chown(path, int(uid), int(uid)), os.Chmod(path, 0o600)); err != nil {
		return nil, errors.Join(fmt.Errorf("openvpn's management socket: %w", err), l.Close(), os.Remove(path))
	}
	return l, nil
}
