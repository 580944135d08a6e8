package mounts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/root"
)

// childMode makes this test binary the first process of a container.
const childMode = "FOREFEND_MOUNTS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childMode) != "" {
		runtime.LockOSThread()
		if err := inhabit(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv("FOREFEND_ROOT_TESTS") != "" && os.Getenv(hostMode) == "" {
		os.Exit(asHost())
	}
	os.Exit(m.Run())
}

// hostMode says that the tests have a mount namespace to themselves, which is their host's.
const hostMode = "FOREFEND_MOUNTS_TEST_HOST"

// asHost runs the tests where nobody else mounts anything, and where what is mounted in a container would show if it were
// passed on.
func asHost() int {
	cmd := exec.Command("sh", append([]string{"-c", "mount --make-rprivate / && mount --make-rshared / && exec \"$0\" \"$@\"", "/proc/self/exe"}, os.Args[1:]...)...)
	exe, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	cmd.Args[3] = exe
	cmd.Env = append(os.Environ(), hostMode+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// inhabit makes a root of its own in a tmpfs and does as it is told, a line for each command.
func inhabit() error {
	const root = "/tmp"
	steps := []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("root", root, "tmpfs", 0, "mode=0755"),
		os.MkdirAll(root+"/data/sub", 0o755), os.MkdirAll(root+"/dev", 0o755), os.MkdirAll(root+"/old", 0o755),
		os.MkdirAll(root+"/volume", 0o755), os.MkdirAll(root+"/shared", 0o755), os.MkdirAll(root+"/real", 0o755), os.MkdirAll(root+"/proc", 0o755),
		os.WriteFile(root+"/secret", []byte("secret"), 0o644), os.WriteFile(root+"/data/file", []byte("data"), 0o644),
		os.WriteFile(root+"/real/file", []byte("real"), 0o644),
		os.Symlink("/real", root+"/link"),
		os.Symlink("/proc/self/root/secret", root+"/magic"),
		unix.Mount("volume", root+"/volume", "tmpfs", 0, ""),
		unix.Mount("shared", root+"/shared", "tmpfs", 0, ""),
		unix.Mount("", root+"/shared", "", unix.MS_SHARED, ""),
		unix.Mount("proc", root+"/proc", "proc", 0, ""),
		os.WriteFile(root+"/volume/file", []byte("volume"), 0o644), os.WriteFile(root+"/shared/file", []byte("shared"), 0o644),
		os.WriteFile(root+"/dev/null", nil, 0o666), unix.Mount("/dev/null", root+"/dev/null", "", unix.MS_BIND, ""),
		unix.PivotRoot(root, root+"/old"), os.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH),
	}
	if err := errors.Join(steps...); err != nil {
		return err
	}
	fmt.Println("ready")
	var open *os.File
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		command, arg, _ := strings.Cut(in.Text(), " ")
		var err error
		said := ""
		switch command {
		case "read":
			var b []byte
			b, err = os.ReadFile(arg)
			said = string(b)
		case "list":
			var entries []os.DirEntry
			entries, err = os.ReadDir(arg)
			for _, e := range entries {
				said += e.Name() + " "
			}
		case "write":
			err = os.WriteFile(arg, []byte("written"), 0o644)
		case "open":
			open, err = os.OpenFile(arg, os.O_WRONLY|os.O_CREATE, 0o644)
		case "append":
			_, err = open.WriteString(arg)
		case "close":
			err = open.Close()
		case "chdir":
			err = os.Chdir(arg)
		case "remove":
			err = os.RemoveAll(arg)
		case "rename":
			from, to, _ := strings.Cut(arg, " ")
			err = os.Rename(from, to)
		case "umount":
			err = unix.Unmount(arg, 0)
		case "mkdir":
			err = os.MkdirAll(arg, 0o755)
		case "symlink":
			from, to, _ := strings.Cut(arg, " ")
			err = os.Symlink(from, to)
		case "swap": // a directory for a link to another, as fast as it goes, until the next line
			dir, to, _ := strings.Cut(arg, " ")
			stop := make(chan struct{})
			swapped := make(chan int)
			go func() { swapped <- swap(dir, to, stop) }()
			in.Scan()
			close(stop)
			said = fmt.Sprint(<-swapped)
		}
		switch {
		case err != nil:
			fmt.Println("error " + strings.ReplaceAll(err.Error(), "\n", " "))
		default:
			fmt.Println("ok " + said)
		}
	}
	return nil
}

func swap(dir, to string, stop chan struct{}) (n int) {
	link := dir + ".link"
	if err := os.Symlink(to, link); err != nil {
		return -1
	}
	for ; ; n++ {
		select {
		case <-stop:
			return n
		default:
			// The two change places at once; RENAME_EXCHANGE refuses a mount point, and then they stay.
			_ = unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}
	}
}

// inmate is the first process of a container.
type inmate struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// newInmate starts a container of one process. With users it has a user namespace of its own.
func newInmate(t *testing.T, users bool) *inmate {
	t.Helper()
	root.Test(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childMode+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if users {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	i := &inmate{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the container's process: %v", err)
		}
	})
	if !i.out.Scan() || i.out.Text() != "ready" {
		t.Fatalf("the container says %q", i.out.Text())
	}
	return i
}

// do sends a command and returns the answer, "ok …" or "error …".
func (i *inmate) do(line string) string {
	i.t.Helper()
	fmt.Fprintln(i.in, line)
	if !i.out.Scan() {
		i.t.Fatal("the container is gone")
	}
	return i.out.Text()
}

func (i *inmate) want(line, answer string) {
	i.t.Helper()
	if got := i.do(line); !strings.HasPrefix(got, answer) {
		i.t.Errorf("%s: %s, want %s", line, got, answer)
	}
}

func (i *inmate) files() *Files {
	i.t.Helper()
	f, err := Survey(i.cmd.Process.Pid, nil, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	return f
}

// mounts are those of this process, that is of the host.
func hostMounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func apply(t *testing.T, f *Files, c Change) func(context.Context) error {
	t.Helper()
	undo, err := f.Apply(t.Context(), c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return undo
}

func TestHideAndShow(t *testing.T) {
	before := hostMounts(t)
	i := newInmate(t, false)
	f := i.files()
	undo := apply(t, f, Change{Mask: []string{"/secret", "/data", "/link/file"}})
	if i.want("read /secret", "ok "); i.do("read /secret") != "ok " {
		t.Error("the hidden file can be read")
	}
	i.want("read /data/file", "error")
	i.want("write /data/new", "error")
	if got := i.do("read /real/file"); got != "ok " {
		t.Errorf("through the link: %s", got)
	}
	apply(t, f, Change{Unmask: []string{"/secret"}})
	i.want("read /secret", "ok secret")
	apply(t, f, Change{Mask: []string{"/secret"}})
	if err := undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.want("read /secret", "ok secret")
	i.want("read /data/file", "ok data")
	i.want("read /real/file", "ok real")
	if len(f.layers) != 0 {
		t.Errorf("left: %v", f.layers)
	}
	if after := hostMounts(t); after != before {
		t.Errorf("the host's mounts are not what they were:\n%s\n%s", before, after)
	}
}

func TestReadOnlyAndBack(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	i.want("open /data/log", "ok")
	i.want("chdir /data", "ok")
	undo := apply(t, f, Change{Protect: []string{"/data", "/volume", "/secret"}})
	i.want("write /data/file", "error")
	i.want("write /volume/file", "error")
	i.want("write /secret", "error")
	i.want("append more", "ok") // an open descriptor stays open
	if got := Standing([]int{i.cmd.Process.Pid}, []string{"/data"}); len(got) != 1 || !strings.HasSuffix(got[0], "in /data") {
		t.Errorf("who stands under the cover: %v", got)
	}
	i.want("close", "ok")
	if err := undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/data/file", "/volume/file", "/secret"} {
		i.want("write "+path, "ok")
	}
}

// TestBusyVolume: a mount with a file open for writing cannot be switched; it is covered instead.
func TestBusyVolume(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	i.want("open /volume/log", "ok")
	apply(t, f, Change{Protect: []string{"/volume"}})
	i.want("write /volume/file", "error")
	i.want("append more", "ok")
	apply(t, f, Change{Release: []string{"/volume"}})
	i.want("write /volume/file", "ok")
}

func TestRoot(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	yes, no := true, false
	i.want("open /data/log", "ok")
	_, err := f.Apply(t.Context(), Change{Root: &yes, Mask: []string{"/secret"}})
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("with a file open for writing: %v", err)
	}
	i.want("read /secret", "ok secret")
	i.want("write /new", "ok")
	i.want("close", "ok")
	apply(t, f, Change{Root: &yes})
	i.want("write /new", "error")
	i.want("write /volume/new", "ok")
	apply(t, f, Change{Protect: []string{"/data"}}) // also where it is read-only already
	apply(t, f, Change{Root: &no})
	i.want("write /new", "ok")
	i.want("write /data/file", "error")
	apply(t, f, Change{Root: &yes})
	apply(t, f, Change{Release: []string{"/data"}})
	i.want("write /data/file", "error") // of a read-only root
	apply(t, f, Change{Root: &no})
	i.want("write /data/file", "ok")
}

func TestUserNamespace(t *testing.T) {
	i := newInmate(t, true)
	f := i.files()
	yes := true
	undo := apply(t, f, Change{Mask: []string{"/data"}, Protect: []string{"/volume", "/real"}})
	i.want("read /data/file", "error")
	i.want("write /volume/file", "error")
	i.want("write /real/file", "error")
	if err := undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.want("read /data/file", "ok data")
	i.want("write /real/file", "ok")
	undo = apply(t, f, Change{Root: &yes})
	i.want("write /new", "error")
	if err := undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.want("write /new", "ok")
}

// TestRefused: what cannot be done is refused whole, and nothing is changed.
func TestRefused(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	for _, path := range []string{"/nothing", "/shared/file", "/magic", "/secret/below"} {
		for _, c := range []Change{{Mask: []string{"/data", path}}, {Protect: []string{"/data", path}}} {
			_, err := f.Apply(t.Context(), c)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), path) {
				t.Errorf("%+v: %v", c, err)
			}
		}
	}
	_, err := f.Apply(t.Context(), Change{Protect: []string{"/data/sub"}, Mask: []string{"/data/sub"}})
	if err != nil {
		t.Error(err)
	}
	if _, err := f.Apply(t.Context(), Change{Protect: []string{"/data"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a directory with a mount below: %v", err)
	}
	i.want("read /data/file", "ok data")
	i.want("write /data/file", "ok")
	if !strings.HasPrefix(i.do("list /shared"), "ok file") {
		t.Error("the shared mount is not what it was")
	}
	host := &Files{pid: os.Getpid(), start: f.start, layers: map[place]layer{}}
	if _, err := host.Apply(t.Context(), Change{Mask: []string{"/data"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another process than the surveyed one: %v", err)
	}
	own, err := Survey(os.Getpid(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.Apply(t.Context(), Change{Mask: []string{"/data"}}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "host's mount namespace") {
		t.Errorf("a container in the host's namespace: %v", err)
	}
}

// TestUncoveredFirst: what is uncovered can be covered otherwise in the same change; a change that fails covers it again.
func TestUncoveredFirst(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	apply(t, f, Change{Mask: []string{"/data", "/secret"}})
	if _, err := f.Apply(t.Context(), Change{Unmask: []string{"/data", "/secret"}, Protect: []string{"/data", "/nothing"}}); !errdefs.IsFailedPrecondition(err) {
		t.Fatal(err)
	}
	i.want("read /data/file", "error")
	if got := i.do("read /secret"); got != "ok " {
		t.Errorf("after a change that failed: %s", got)
	}
	apply(t, f, Change{Unmask: []string{"/data", "/secret"}, Protect: []string{"/data"}})
	i.want("read /data/file", "ok data")
	i.want("write /data/file", "error")
	if len(f.layers) != 1 {
		t.Errorf("layers %v", f.layers)
	}
}

// TestSpoiltNull: a container that has no /dev/null to be hidden under does not escape by that.
func TestSpoiltNull(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	i.want("umount /dev/null", "ok")
	i.want("remove /dev/null", "ok")
	i.want("symlink /secret /dev/null", "ok")
	apply(t, f, Change{Mask: []string{"/secret"}})
	if got := i.do("read /secret"); got != "ok " {
		t.Errorf("hidden file: %s", got)
	}
	i.want("write /dev/null", "ok") // through the link, into the cover
	apply(t, f, Change{Unmask: []string{"/secret"}})
	i.want("read /secret", "ok secret")
}

// TestMovedCover: a cover is taken away where it is by now, and no other is in its stead.
func TestMovedCover(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	apply(t, f, Change{Mask: []string{"/data/file", "/real/file"}})
	i.want("rename /data /away", "ok")
	i.want("symlink /real /data", "ok") // /data/file is the cover of /real/file now
	apply(t, f, Change{Unmask: []string{"/data/file"}})
	i.want("read /away/file", "ok data")
	if got := i.do("read /real/file"); got != "ok " {
		t.Errorf("the other cover was taken away: %s", got)
	}
}

// TestSwap: a container swaps a directory for a link that leads out of it, as fast as it can, while paths below are hidden,
// made read-only and back. Nothing of the host is touched, and nothing is left.
func TestSwap(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 50
	}
	before := hostMounts(t)
	outside := filepath.Join(t.TempDir(), "sub")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	i := newInmate(t, false)
	i.want("mkdir /race/data/sub", "ok")
	i.want("mkdir "+outside, "ok")
	f := i.files()
	fmt.Fprintln(i.in, "swap /race/data "+filepath.Dir(outside)) // there is one in the container and one on the host
	made := 0
	for n := range rounds {
		c := Change{Mask: []string{"/race/data/sub"}}
		if n%2 == 1 {
			c = Change{Protect: []string{"/race/data/sub"}}
		}
		undo, err := f.Apply(t.Context(), c)
		if err != nil {
			if !errdefs.IsFailedPrecondition(err) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOENT) {
				t.Fatalf("round %d: %v", n, err)
			}
			continue
		}
		made++
		for try := 0; ; try++ { // the container can hold it up, not prevent it
			if err = undo(t.Context()); err == nil || try == 100 {
				break
			}
		}
		if err != nil {
			t.Fatalf("round %d: not taken back: %v", n, err)
		}
	}
	fmt.Fprintln(i.in, "stop")
	if !i.out.Scan() || !strings.HasPrefix(i.out.Text(), "ok ") {
		t.Fatalf("the container says %q", i.out.Text())
	}
	t.Logf("%d of %d changes made, %s swaps", made, rounds, strings.TrimPrefix(i.out.Text(), "ok "))
	if made == 0 {
		t.Error("no change was made at all")
	}
	if after := hostMounts(t); after != before {
		t.Errorf("the host's mounts are not what they were:\n%s\n%s", before, after)
	}
	if len(f.layers) != 0 {
		t.Errorf("left: %v", f.layers)
	}
}

// TestGivenUp: a change whose time is over does not stand, whatever became of it.
func TestGivenUp(t *testing.T) {
	i := newInmate(t, false)
	f := i.files()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Apply(ctx, Change{Mask: []string{"/secret"}})
	for deadline := time.Now().Add(5 * time.Second); f.busy.Load() && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if err == nil { // it was faster
		apply(t, f, Change{Unmask: []string{"/secret"}})
	} else if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	i.want("read /secret", "ok secret")
}
