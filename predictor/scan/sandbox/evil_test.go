package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// The test binary is its own scanner: with arguments "evil STEP ROOT CACHE" it enters the sandbox and tries the step.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "evil" {
		os.Exit(evil(os.Args[2], os.Args[3], os.Args[4]))
	}
	os.Exit(m.Run())
}

// steps are what an analyser that was taken over may try. A nil error means that it got away with it.
var steps = map[string]func(root string) error{
	"read outside":    func(string) error { return opens("/etc/shadow", os.O_RDONLY) },
	"read own binary": func(string) error { return opens("/proc/self/exe", os.O_RDONLY) },
	"follow a link":   func(root string) error { return opens(filepath.Join(root, "escape"), os.O_RDONLY) },
	"climb out":       func(root string) error { return opens(root+"/../../../../../../etc/shadow", os.O_RDONLY) },
	"list outside":    func(string) error { _, err := os.ReadDir("/"); return err },
	"write inside":    func(root string) error { return opens(filepath.Join(root, "file"), os.O_WRONLY) },
	"make inside":     func(root string) error { return opens(filepath.Join(root, "new"), os.O_WRONLY|os.O_CREATE) },
	"make in /tmp":    func(string) error { return opens("/tmp/forefend-evil", os.O_WRONLY|os.O_CREATE) },
	"remove":          func(root string) error { return os.Remove(filepath.Join(root, "file")) },
	"truncate":        func(root string) error { return os.Truncate(filepath.Join(root, "file"), 0) },
	"chmod":           func(root string) error { return os.Chmod(filepath.Join(root, "file"), 0o777) },
	"link":            func(root string) error { return os.Link(filepath.Join(root, "file"), filepath.Join(root, "l")) },
	"connect":         func(string) error { _, err := net.Dial("tcp", "127.0.0.1:1"); return refused(err) },
	"send UDP":        func(string) error { _, err := net.Dial("udp", "127.0.0.1:1"); return err },
	"unix socket":     func(string) error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
	"netlink":         func(string) error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err },
	"vsock":           func(string) error { _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); return err },
	"exec":            func(string) error { return syscall.Exec("/bin/true", []string{"true"}, nil) },
	"exec inside":     func(root string) error { return syscall.Exec(filepath.Join(root, "program"), []string{"p"}, nil) },
	"start a program": func(string) error { return exec.Command("/bin/true").Run() },
	"fork":            func(string) error { return calls(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) },
	"clone3":          func(string) error { return calls(unix.SYS_CLONE3, 0, 0, 0) },
	"trace":           func(string) error { return calls(unix.SYS_PTRACE, unix.PTRACE_ATTACH, uintptr(os.Getppid()), 0) },
	"signal":          func(string) error { return syscall.Kill(os.Getppid(), 0) },
	"signal a thread": func(string) error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
	"mount":           func(root string) error { return unix.Mount("none", root, "tmpfs", 0, "") },
	"change root":     func(root string) error { return unix.Chroot(root) },
	"become root":     func(string) error { return calls(unix.SYS_SETRESUID, 0, 0, 0) },
	"new user space":  func(string) error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"load BPF":        func(string) error { return calls(unix.SYS_BPF, 0, 0, 0) },
	"io_uring":        func(string) error { return calls(unix.SYS_IO_URING_SETUP, 1, 0, 0) },
	"memfd":           func(string) error { _, err := unix.MemfdCreate("x", 0); return err },
	"raise limits":    func(string) error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}) },
	"executable pages": func(string) error {
		_, err := mmap(unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	},
	"make executable": func(string) error {
		b, err := mmap(unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			panic(err)
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	},
	"shared memory": func(string) error { _, err := mmap(unix.PROT_READ, unix.MAP_SHARED|unix.MAP_ANON); return err },
	"open for writing, by number": func(root string) error {
		_, err := unix.Openat(unix.AT_FDCWD, filepath.Join(root, "file"), unix.O_RDWR, 0)
		return err
	},
	"open for writing, openat2": func(root string) error {
		_, err := unix.Openat2(unix.AT_FDCWD, filepath.Join(root, "file"), &unix.OpenHow{Flags: unix.O_RDWR})
		return err
	},
}

func mmap(prot, flags int) ([]byte, error) { return unix.Mmap(-1, 0, 4096, prot, flags) }

func opens(path string, flag int) error {
	f, err := os.OpenFile(path, flag, 0o600)
	if err == nil {
		_ = f.Close()
	}
	return err
}

func calls(number, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// refused makes a success of a connection that only lacked somebody to answer.
func refused(err error) error {
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENETUNREACH) {
		return nil
	}
	return err
}

// evil enters the sandbox and prints, as the errors of a scan, what came of the step.
func evil(step, root, cache string) int {
	limits, parented := FromParent(os.Getenv(ParentVariable))
	c := Confinement{Read: []string{root}, Parented: parented, Limits: limits}
	if cache != "" {
		c.Write = []string{cache}
	}
	if err := Enter(c); err != nil {
		fmt.Fprintln(os.Stderr, "enter:", err)
		return 3
	}
	scan := evidence.Scan{Version: evidence.ScanVersion}
	switch step {
	case "allocate":
		var kept [][]byte
		for len(kept) < 4096 { // 4 GiB, touched
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			kept = append(kept, b)
		}
		fmt.Fprintln(os.Stderr, "allocated", len(kept))
	case "loop":
		for i := 0; ; i++ {
			_ = i
		}
	case "wait":
		var pipe [2]int
		_ = unix.Pipe2(pipe[:], 0)
		_, _ = unix.Read(pipe[0], make([]byte, 1))
	case "print":
		for {
			_, _ = os.Stdout.WriteString(strings.Repeat("x", 1<<16))
		}
	case "nonsense":
		fmt.Println("{]")
		return 0
	case "panic":
		panic("a parser met its match")
	case "honest":
		scan.Errors = honest(root, cache)
	default:
		scan.Errors = []string{"got away with it"}
		if err := steps[step](root); err != nil {
			scan.Errors = []string{err.Error()}
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(scan)
	return 0
}

// honest is what a scanner must be able to do.
func honest(root, cache string) []string {
	var errs []string
	note := func(err error) {
		if err != nil {
			errs = append(errs, err.Error())
		}
	}
	_, err := os.ReadFile(filepath.Join(root, "secret")) // of mode 0: by capability
	if os.Getuid() == nobody {
		note(err)
	}
	_, err = os.ReadDir(root)
	note(err)
	f, err := os.Open(filepath.Join(root, "file"))
	note(err)
	if err == nil {
		b, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ, unix.MAP_PRIVATE)
		note(err)
		if err == nil && string(b) != "text" {
			note(fmt.Errorf("mapped %q", b))
		}
	}
	_, _, err = rootfs.Open([]string{root}).OpenFile("/file")
	note(err)
	done := make(chan error)
	for range 50 { // threads
		go func() { _, err := os.Stat(root); done <- err }()
	}
	for range 50 {
		note(<-done)
	}
	if cache != "" {
		tmp := filepath.Join(cache, "t")
		note(os.WriteFile(tmp, []byte("x"), 0o600))
		note(os.Rename(tmp, filepath.Join(cache, "entry")))
	}
	return errs
}
