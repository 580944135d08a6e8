package seccomp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	handoverDeadline    = 5 * time.Second
	handoversAtOnce     = 8
	maxSocketPath       = 100
	maxFdsInOneHandover = 4 // one is right; more are closed rather than leaked
)

// listen makes the socket that runc connects to, reachable by root alone.
func listen(ctx context.Context, path string) (*net.UnixListener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("seccomp listener path %q is longer than %d bytes", path, maxSocketPath)
	}
	if err := privateDirectory(filepath.Dir(path)); err != nil {
		return nil, err
	}
	// A shim that died leaves its socket behind.
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale seccomp listener: %w", err)
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for seccomp handovers: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict seccomp listener: %w", err), l.Close())
	}
	return l.(*net.UnixListener), nil
}

// privateDirectory makes dir, or checks that nobody else can reach into it.
func privateDirectory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of seccomp listener: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("check directory of seccomp listener %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("directory of seccomp listener %s: mode %o of user %d, want 700 of user %d", dir, st.Mode, st.Uid, os.Geteuid())
	}
	return nil
}

// peerIsRoot asks the kernel who connected.
func peerIsRoot(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("seccomp handover: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return fmt.Errorf("seccomp handover: read peer credentials: %w", errors.Join(err, credErr))
	}
	if cred.Uid != 0 {
		return fmt.Errorf("seccomp handover by user %d refused", cred.Uid)
	}
	return nil
}

// takeOver reads one handover: runc's message, and the listener
// descriptor in its first bytes. On success the descriptor is the caller's.
func takeOver(conn *net.UnixConn) (n newcomer, fd int, err error) {
	if err := conn.SetDeadline(time.Now().Add(handoverDeadline)); err != nil {
		return newcomer{}, -1, fmt.Errorf("seccomp handover: %w", err)
	}
	message := make([]byte, 8<<10)
	oob := make([]byte, unix.CmsgSpace(4*maxFdsInOneHandover))
	read, oobRead, flags, _, err := conn.ReadMsgUnix(message, oob)
	if err != nil {
		return newcomer{}, -1, fmt.Errorf("seccomp handover: %w", err)
	}
	fds := descriptors(oob[:oobRead])
	defer func() {
		if err != nil {
			closeAll(fds)
		}
	}()
	state, err := readState(io.MultiReader(bytes.NewReader(message[:read]), conn))
	if err != nil {
		return newcomer{}, -1, err
	}
	n, err = parseState(state)
	if err != nil {
		return newcomer{}, -1, err
	}
	if len(fds) != 1 || flags&unix.MSG_CTRUNC != 0 || !isNotifyDescriptor(fds[0]) {
		return newcomer{}, -1, fmt.Errorf("%w: it came without exactly one seccomp listener", ErrBadState)
	}
	return n, fds[0], nil
}

// readState reads one JSON value and no further: runc 1.1 keeps the connection
// of an exec open until the process it started is done.
func readState(r io.Reader) ([]byte, error) {
	var state json.RawMessage
	err := json.NewDecoder(io.LimitReader(r, maxStateBytes+1)).Decode(&state)
	var malformed *json.SyntaxError
	switch {
	case errors.As(err, &malformed), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: %w", ErrBadState, err)
	case err != nil:
		return nil, fmt.Errorf("seccomp handover: %w", err)
	}
	return state, nil
}

// descriptors returns the descriptors of control messages. Go's ReadMsgUnix asked
// for close-on-exec already.
func descriptors(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var all []int
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			all = append(all, fds...)
		}
	}
	return all
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
