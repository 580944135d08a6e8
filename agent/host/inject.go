package host

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/channel"
	"forefend.dev/forefend/netns/enter"
	"forefend.dev/forefend/runtime/record"
)

// entered are the namespaces an agent is in. It stays outside of the PID namespace: nothing in there sees or signals it, and its
// end is nobody's business in there.
const entered = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// process is one start of an agent.
type process struct {
	pid    int
	start  uint64
	pidfd  int
	begun  time.Time // its injection
	stream *os.File  // our end
	key    [channel.KeySize]byte
	gone   chan struct{} // closed once the process has been waited for
}

// launch starts an agent in the target's namespaces.
func (h *Host) launch(t Target) (_ *process, err error) {
	p := &process{begun: time.Now(), pidfd: -1, gone: make(chan struct{})}
	_, _ = rand.Read(p.key[:]) // it never fails
	l := launcher{host: h, target: t, process: p}
	defer l.close()
	if err := l.open(); err != nil {
		return nil, err
	}
	result := make(chan error, 1)
	enter.Thread(func() bool {
		err := l.enterAndStart()
		back := unix.Setns(l.self, entered) == nil // its root and working directory are the host's again with that
		result <- err
		return back
	})
	if err := <-result; err != nil {
		return nil, err
	}
	go func() {
		_ = l.wait() // it was killed, or ended with the channel
		close(p.gone)
	}()
	p.pid = l.cmd.Process.Pid
	if p.start, err = record.Start(p.pid); err == nil {
		p.pidfd, err = unix.PidfdOpen(p.pid, 0)
	}
	if err != nil {
		p.end()
		return nil, fmt.Errorf("agent %d: %w", p.pid, err)
	}
	return p, nil
}

// errGone says that the container's process is not there any more.
var errGone = errors.New("the container has ended")

// launcher holds what a start needs until it is over.
type launcher struct {
	host    *Host
	target  Target
	process *process

	home, empty, null, key *os.File
	pidfd, self            int // pidfds of the target and of this process
	far                    *os.File
	cmd                    *exec.Cmd
	wait                   func() error
}

// open opens, outside of the container, all that the thread inside needs: paths lead elsewhere there.
func (l *launcher) open() (err error) {
	l.pidfd, l.self = -1, -1
	cfg := l.host.cfg
	if l.home, err = os.Open(filepath.Dir(cfg.Binary)); err != nil {
		return fmt.Errorf("directory of the agent: %w", err)
	}
	if l.empty, err = openEmpty(cfg.Empty); err != nil {
		return err
	}
	if l.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	if l.key, err = sealedKey(l.process.key[:]); err != nil {
		return err
	}
	if l.self, err = unix.PidfdOpen(os.Getpid(), 0); err != nil {
		return fmt.Errorf("pidfd of this process: %w", err)
	}
	if l.pidfd, err = unix.PidfdOpen(l.target.PID, 0); err != nil {
		return fmt.Errorf("process %d: %w: %w", l.target.PID, errGone, err)
	}
	if start, err := record.Start(l.target.PID); err != nil || start != l.target.PIDStart {
		return fmt.Errorf("process %d: %w", l.target.PID, errGone)
	}
	return nil
}

func (l *launcher) close() {
	for _, f := range []*os.File{l.home, l.empty, l.null, l.key, l.far} {
		if f != nil {
			_ = f.Close() // only read, or handed to the agent
		}
	}
	for _, fd := range []int{l.pidfd, l.self} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// openEmpty opens the directory that agents have as their root. Somebody else's files in it would be reachable to them.
func openEmpty(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o555); err != nil {
		return nil, fmt.Errorf("root directory of agents: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("root directory of agents: %w", err)
	}
	if names, err := dir.Readdirnames(1); len(names) > 0 {
		_ = dir.Close()
		return nil, fmt.Errorf("root directory of agents %s is not empty: %w", path, errors.Join(err, fs.ErrExist))
	}
	return dir, nil
}

// sealedKey puts the key into a memfd that nobody can change any more.
func sealedKey(key []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("forefend-key", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd for the key: %w", err)
	}
	f := os.NewFile(uintptr(fd), "key")
	_, err = f.Write(key)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("memfd for the key: %w", err)
	}
	return f, nil
}

// enterAndStart runs on one of threads, which it leaves in the container's namespaces.
func (l *launcher) enterAndStart() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the root directory: %w", err)
	}
	if err := unix.Setns(l.pidfd, entered); errors.Is(err, unix.ESRCH) {
		return errGone
	} else if err != nil {
		return fmt.Errorf("enter the container's namespaces (needs Linux 5.8): %w", err)
	}
	// In here, so that the sockets belong to the container's network namespace: CAP_NET_ADMIN is asked for by a socket's
	// namespace, and one of the host's would give power over the host's interfaces.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("channel: %w", err)
	}
	l.process.stream, l.far = os.NewFile(uintptr(pair[0]), "agent"), os.NewFile(uintptr(pair[1]), "channel")
	// An empty root: not even what the Go runtime reads before main (/sys/kernel/mm/…) is the image's.
	if err := errors.Join(l.empty.Chdir(), unix.Chroot("."), l.home.Chdir()); err != nil {
		return fmt.Errorf("root directory of the agent: %w", err)
	}
	uid := chooseUID()
	name := filepath.Base(l.host.cfg.Binary)
	args, env := []string{name}, []string{"GOMAXPROCS=1", "GOTRACEBACK=none"}
	if l.target.Intercept != nil {
		args, env = append(args, api.InterceptArg), []string{"GOTRACEBACK=none"}
	}
	l.cmd = &exec.Cmd{
		Path: "./" + name, Args: args,
		Env:        env,
		Stdin:      l.null,
		Stdout:     l.null,
		Stderr:     l.null,
		ExtraFiles: []*os.File{l.far, l.key},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:      true,
			Credential:  &syscall.Credential{Uid: uid, Gid: uid},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN},
		},
	}
	l.wait, err = l.host.cfg.Start(l.cmd)
	if err != nil {
		_ = l.process.stream.Close() // nobody is at the other end
		if errors.Is(err, unix.EACCES) {
			err = fmt.Errorf("%w: its user is nobody: all must be allowed to execute it and to search its directory", err)
		}
		return fmt.Errorf("start the agent: %w", err)
	}
	return nil
}

// firstUID is where the users of agents begin: beyond what people, distributions, systemd (up to 1879048191) and subordinate
// ids give to anybody. Each start has one of 65536.
const firstUID = 0xf0fe0000

func chooseUID() uint32 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // it never fails
	return firstUID + uint32(binary.NativeEndian.Uint16(b[:]))
}

// kill ends the process at once, stopped or not.
func (p *process) kill() {
	if p.pidfd >= 0 {
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0) // gone already: that is what is wanted
	}
}

// end kills the process, waits for its end and closes what belongs to it.
func (p *process) end() {
	p.kill()
	_ = p.stream.Close() // also what ends one that could not be killed
	select {
	case <-p.gone:
	case <-time.After(dyingDeadline):
	}
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
}
