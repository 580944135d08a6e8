package ptrace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Call is one system call of a traced process. It is valid while the handler runs.
type Call struct {
	Process *Process
	Number  int
	Args    [6]uint64
	Done    bool  // it has returned
	Result  int64 // what it returned; -errno on failure
	tid     int
}

// call tells the handler of the beginning or the end of a call.
func (t *tracer) call(tid int, th *thread) {
	info, err := getSyscallInfo(tid)
	if err != nil {
		return // killed meanwhile
	}
	switch info.op {
	case infoEntry:
		th.call = Call{Process: th.process, Number: int(info.first), Args: info.args, tid: tid}
	case infoExit:
		if th.call.Process == nil {
			return // it was under way before the tracing began
		}
		th.call.Done, th.call.Result = true, int64(info.first)
	default:
		return
	}
	if t.handler.Call != nil {
		t.handler.Call(&th.call)
	}
	if th.call.Done {
		th.call = Call{}
	}
}

// Path is the path in argument i, made absolute with the directory descriptor in argument dir, or with the working
// directory when dir is negative. It is empty when it cannot be read.
func (c *Call) Path(dir, i int) string {
	path := c.text(c.Args[i])
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	from := "cwd"
	if dir >= 0 && int32(c.Args[dir]) != unix.AT_FDCWD {
		from = fmt.Sprintf("fd/%d", int32(c.Args[dir]))
	}
	base, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", c.tid, from))
	if err != nil {
		return ""
	}
	return filepath.Join(base, path)
}

// File is what the descriptor in argument i is.
func (c *Call) File(i int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", c.tid, int32(c.Args[i])))
	return path
}

// Socket is the path of the unix socket address in argument i, whose length is in the next one.
func (c *Call) Socket(i int) string {
	address := c.Bytes(c.Args[i], min(c.Args[i+1], 110))
	if len(address) < 3 || binary.NativeEndian.Uint16(address) != unix.AF_UNIX {
		return ""
	}
	path, _, _ := bytes.Cut(address[2:], []byte{0})
	return string(path)
}

// Bytes reads the process's memory; what cannot be read is left out.
func (c *Call) Bytes(at, length uint64) []byte {
	if length == 0 {
		return nil
	}
	b := make([]byte, length)
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(c.tid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(b)}}, 0)
	if err != nil {
		return nil
	}
	return b[:n]
}

// text reads a string that ends with a NUL, page by page: what follows it may be unreadable.
func (c *Call) text(at uint64) string {
	const page = 4096
	var out []byte
	for len(out) < unix.PathMax {
		part := c.Bytes(at, page-at%page)
		if len(part) == 0 {
			return ""
		}
		head, _, found := bytes.Cut(part, []byte{0})
		out = append(out, head...)
		if found {
			return string(out)
		}
		at += uint64(len(part))
	}
	return ""
}

// Position is where the file behind the descriptor in argument i is read and written next, and whether a write to it
// waits for the disk. The position is -1 when it is unknown.
func (c *Call) Position(i int) (at int64, synced bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", c.tid, int32(c.Args[i])))
	if err != nil {
		return -1, false
	}
	var flags int64
	if _, err := fmt.Sscanf(string(text), "pos:\t%d\nflags:\t%o", &at, &flags); err != nil {
		return -1, false
	}
	return at, flags&unix.O_DSYNC != 0 // a part of O_SYNC
}
