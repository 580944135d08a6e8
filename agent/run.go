package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	api "forefend.dev/forefend/agent/api/v1"
	"forefend.dev/forefend/agent/calls"
	"forefend.dev/forefend/agent/channel"
)

// Memory of an idle agent counts, its CPU time hardly: it works for microseconds, seconds apart.
const (
	collectAt  = 25      // percent, GOGC
	mostMemory = 4 << 20 // bytes from which on the collector works harder
	// An interceptor has 24 KiB at most for each of its connections, of which there may be 4096.
	mostIntercepting = 128 << 20
)

// Run is the agent's whole life: it becomes what the package says, serves the shim on the descriptors it was started
// with, and returns when the channel ends. It changes its process for good and is called once, from main. intercept makes the
// interceptor of an agent that is to be one; nil: it is not.
func Run(build string, intercept func(Asker) (Interceptor, error)) error {
	runtime.LockOSThread() // no_new_privs is one thread's, until the filter gives it to all
	if err := harden(api.KeyFD + 1); err != nil {
		return err
	}
	debug.SetGCPercent(collectAt)
	debug.SetMemoryLimit(mostMemory)
	if intercept != nil {
		debug.SetMemoryLimit(mostIntercepting)
		debug.SetGCPercent(100)
	}
	key, err := readKey(api.KeyFD)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(api.ChannelFD, true); err != nil {
		return fmt.Errorf("descriptor of the channel: %w", err)
	}
	conn := channel.New(os.NewFile(api.ChannelFD, "channel"), channel.Config{Key: key, End: channel.Agent})
	if _, err := conn.Write(append([]byte(api.HelloMagic), api.Version)); err != nil {
		return err
	}
	kernel, err := release()
	if err != nil {
		return err
	}
	allow, files := allowed, uint64(mostFiles)
	if intercept != nil {
		allow, files = append(allow[:len(allow):len(allow)], intercepting...), mostInterceptingFiles
	}
	if err := confine(allow, files); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	s := newServer(build, kernel)
	if intercept != nil {
		if s.interceptor, err = intercept(s.asks); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	err = calls.Serve(ctx, conn, api.ServiceName, s.methods())
	cancel()
	s.close()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readKey reads and closes the channel's key. Seals prove that nobody who still holds the memfd can have changed it.
func readKey(fd int) (key [channel.KeySize]byte, err error) {
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	const sealed = unix.F_SEAL_SEAL | unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return key, fmt.Errorf("key: %w", err)
	}
	if seals&sealed != sealed {
		return key, fmt.Errorf("key: seals are %#x, want %#x", seals, sealed)
	}
	n, err := unix.Pread(fd, key[:], 0)
	if err == nil && n != len(key) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return key, fmt.Errorf("key: %w", err)
	}
	return key, nil
}

func release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("kernel release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}
