package seccomp

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// shortDir is a private directory with a path short enough for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ff")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestAttachChecksItsSurroundings(t *testing.T) {
	s := NewSupervisor(Config{})
	defer s.Close()
	open := filepath.Join(shortDir(t), "open")
	must(t, os.Mkdir(open, 0o700))
	must(t, os.Chmod(open, 0o755))
	elsewhere := filepath.Join(shortDir(t), "link")
	must(t, os.Symlink(shortDir(t), elsewhere))
	file := filepath.Join(shortDir(t), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for what, path := range map[string]string{
		"a directory others can enter": filepath.Join(open, "s"), "a symbolic link": filepath.Join(elsewhere, "s"),
		"a path too long": filepath.Join(shortDir(t), strings.Repeat("x", 120)), "a file in the way": file,
	} {
		if c, err := s.Attach(context.Background(), "web", path, &Table{}); err == nil || c != nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if _, err := s.Attach(context.Background(), "web", filepath.Join(shortDir(t), "s"), nil); err == nil {
		t.Error("no table was accepted")
	}
}

func TestAttachAndCloseLeaveNothing(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	path := filepath.Join(shortDir(t), "d", "n.sock")
	for range 2 { // a socket left by a shim that died is in nobody's way
		s := NewSupervisor(Config{})
		c, err := s.Attach(context.Background(), "web", path, &Table{})
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("socket has mode %v", info.Mode())
		}
		conn, err := net.Dial("unix", path) // a peer that says nothing
		must(t, err)
		defer conn.Close()
		must(t, c.Close())
		must(t, c.Close())
		must(t, s.Close())
		must(t, s.Close())
		if _, err := s.Attach(context.Background(), "web", path, &Table{}); !errors.Is(err, ErrClosed) {
			t.Errorf("attach after close: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		must(t, l.Close())
	}
	eventually(t, "goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
}

// handOver sends message with these descriptors as runc does.
func handOver(t *testing.T, path string, message []byte, fds ...int) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	must(t, err)
	defer conn.Close()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix(message, oob, nil)
	must(t, err)
	must(t, conn.(*net.UnixConn).CloseWrite())
	_, _ = io.Copy(io.Discard, conn) // until the supervisor is done with it
}

func TestRootHostileHandovers(t *testing.T) {
	requireRoot(t)
	var complaints []string
	s := NewSupervisor(Config{OnError: func(_ string, err error) { complaints = append(complaints, err.Error()) }})
	path := filepath.Join(shortDir(t), "n.sock")
	c, err := s.Attach(context.Background(), "web", path, &Table{})
	must(t, err)
	null, err := os.Open("/dev/null")
	must(t, err)
	defer null.Close()
	fd := int(null.Fd())
	good := stateMessage(t, func(*specs.ContainerProcessState) {})
	descriptors := openDescriptors(t)
	hostile := []func(){
		func() { handOver(t, path, []byte("rubbish"), fd) },
		func() { handOver(t, path, good) },         // no descriptor
		func() { handOver(t, path, good, fd) },     // one that is no listener
		func() { handOver(t, path, good, fd, fd) }, // too many
		func() { handOver(t, path, good, fd, fd, fd, fd, fd, fd, fd) },
		func() { handOver(t, path, make([]byte, 1)) },
	}
	for i, attack := range hostile {
		attack()
		eventually(t, "refusal", func() bool { return c.Counts().Refused == uint64(i+1) })
	}
	if c.listeners.count() != 0 {
		t.Error("something hostile was taken for a listener")
	}
	eventually(t, "descriptors", func() bool { return openDescriptors(t) <= descriptors })
	must(t, s.Close())
	if len(complaints) != len(hostile) {
		t.Errorf("complaints %q", complaints)
	}
}

func TestRootOnlyRootHandsOver(t *testing.T) {
	requireRoot(t)
	dir := shortDir(t)
	must(t, os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "n.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer l.Close()
	must(t, os.Chmod(path, 0o666))
	for uid, want := range map[int]bool{0: true, 65534: false} {
		dialed := make(chan error, 1)
		go func() {
			// The raw call changes this thread only, which ends with the goroutine.
			runtime.LockOSThread()
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
			if errno != 0 {
				dialed <- errno
				return
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err == nil {
				err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
			}
			dialed <- err
		}()
		must(t, <-dialed)
		conn, err := l.AcceptUnix()
		must(t, err)
		if err := peerIsRoot(conn); (err == nil) != want {
			t.Errorf("user %d: %v", uid, err)
		}
		must(t, conn.Close())
	}
}

// runc 1.1 keeps the connection of an exec open until the process it started
// is done: whoever waits for its end starves that process.
func TestReadStateDoesNotWaitForTheEnd(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	message := stateMessage(t, func(*specs.ContainerProcessState) {})
	written := make(chan error, 1)
	go func() {
		_, err := theirs.Write(message[:10])
		if err == nil {
			_, err = theirs.Write(message[10:])
		}
		written <- err
	}()
	must(t, ours.SetDeadline(time.Now().Add(time.Minute)))
	state, err := readState(ours)
	must(t, err)
	must(t, <-written)
	if _, err := parseState(state); err != nil {
		t.Errorf("read %q: %v", state, err)
	}
}
