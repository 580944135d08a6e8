package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/vm/debian"
	"forefend.dev/forefend/test/vm/wire"
)

// These tests boot nothing: this binary plays the emulator with a guest in it, and the file server. It notes each of
// its lives in a file of the directory that the variable names.
const (
	fakeMode = "FOREFEND_VM_FAKE"
	fakeDir  = "FOREFEND_VM_FAKE_DIR"
)

func TestMain(m *testing.M) {
	mode := os.Getenv(fakeMode)
	switch {
	case mode == "":
		os.Exit(m.Run())
	case len(os.Args) > 1 && os.Args[1] == ShareCommand:
		note("files")
		_ = unix.Pause() // until killed
	case mode == "runner":
		_ = os.Setenv(fakeMode, "hangs later")
		_, err := fake(os.Getenv(fakeDir), &bytes.Buffer{}).Run(context.Background(), wire.Request{})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lives := note("emulator")
	if err := play(mode, lives); err != nil {
		fmt.Fprintln(os.Stderr, "fake guest:", err)
		os.Exit(1)
	}
}

// note leaves a file for this process and returns the how-manieth of its kind it is.
func note(what string) int {
	dir := os.Getenv(fakeDir)
	_ = os.WriteFile(filepath.Join(dir, what+"."+strconv.Itoa(os.Getpid())), nil, 0o600)
	return len(pids(dir, what))
}

// pids are the processes that were noted.
func pids(dir, what string) []int {
	files, _ := filepath.Glob(filepath.Join(dir, what+".*"))
	var all []int
	for _, file := range files {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(file), "."))
		if err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// play is a guest.
func play(mode string, life int) error {
	if mode == "crashes first" && life == 1 {
		return errors.New("crash")
	}
	i := slices.IndexFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "socket,id=control,path=") })
	conn, err := net.Dial("unix", strings.TrimPrefix(os.Args[i], "socket,id=control,path="))
	if err != nil {
		return err
	}
	c := wire.New(conn)
	if mode == "hangs" || mode == "hangs first" && life == 1 {
		_ = unix.Pause()
	}
	if err := c.Write(wire.Hello, nil); err != nil {
		return err
	}
	kind, body, err := c.Read()
	if err != nil || kind != wire.Run {
		return fmt.Errorf("frame %q, %w", kind, err)
	}
	var r wire.Request
	if err := json.Unmarshal(body, &r); err != nil {
		return err
	}
	if mode == "refuses" {
		return c.Write(wire.Failed, []byte("no such module"))
	}
	_ = c.Write(wire.Started, nil)
	switch mode {
	case "dies later":
		return errors.New("triple fault")
	case "hangs later":
		note("started")
		for { // it lives, and does nothing else
			if err := c.Write(wire.Alive, nil); err != nil {
				return err
			}
			<-time.After(50 * time.Millisecond)
		}
	case "falls silent":
		_ = unix.Pause()
	}
	fmt.Fprint(c.Stream(wire.Out), strings.Join(r.Steps[0].Args, " "))
	fmt.Fprint(c.Stream(wire.Err), " and an error")
	return c.WriteJSON(wire.Exit, wire.Result{Status: 42})
}

// fake is a machine whose emulator is this binary.
func fake(dir string, out *bytes.Buffer) Machine {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, nil, 0o600); err != nil {
		panic(err)
	}
	return Machine{
		Image: debian.Image{Initrd: initrd, Emulator: []string{self}}, Self: self,
		Dir: filepath.Join(dir, "runs"), CPUs: 1, Memory: 256, Boot: time.Minute, Silence: time.Minute, Tries: 3,
		Stdout: out, Stderr: out, Log: func(string) {},
	}
}

// run runs a fake machine and checks that nothing of it is left.
func run(t *testing.T, ctx context.Context, mode string, change func(*Machine)) (status int, out string, boots int, err error) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(fakeMode, mode)
	t.Setenv(fakeDir, dir)
	var buf bytes.Buffer
	m := fake(dir, &buf)
	if change != nil {
		change(&m)
	}
	status, err = m.Run(ctx, wire.Request{Steps: []wire.Step{{Args: []string{"echo", "hello"}}}})
	gone(t, dir)
	if left, _ := os.ReadDir(m.Dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	return status, buf.String(), len(pids(dir, "emulator")), err
}

// gone fails the test unless all noted processes have ended.
func gone(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for _, pid := range append(pids(dir, "emulator"), pids(dir, "files")...) {
		for unix.Kill(pid, 0) == nil && !zombie(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is still there", pid)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
}

// zombie: a process whose parent was killed stays for init to wait for, which in a container may never happen.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " Z")
}

func TestRun(t *testing.T) {
	status, out, boots, err := run(t, t.Context(), "works", nil)
	if err != nil || status != 42 || out != "echo hello and an error" || boots != 1 {
		t.Errorf("status %d, %q, %d boots, %v", status, out, boots, err)
	}
}

func TestBootsAgain(t *testing.T) {
	for mode, boot := range map[string]time.Duration{"crashes first": time.Minute, "hangs first": 3 * time.Second} {
		var said []string
		status, out, boots, err := run(t, t.Context(), mode, func(m *Machine) {
			m.Boot, m.Log = boot, func(s string) { said = append(said, s) }
		})
		if err != nil || status != 42 || out != "echo hello and an error" || boots < 2 {
			t.Errorf("%s: status %d, %q, %d boots, %v", mode, status, out, boots, err)
		}
		if len(said) != boots-1 {
			t.Errorf("%s: %d boots, said %q", mode, boots, said)
		}
	}
}

// What went wrong for good is not tried again, and says what there is to say.
func TestDies(t *testing.T) {
	for _, c := range []struct {
		mode, says string
		boots      int
		change     func(*Machine)
	}{
		{"hangs", "nothing ran within", 2, func(m *Machine) { m.Boot, m.Tries = 300*time.Millisecond, 2 }},
		{"refuses", "no such module", 1, nil},
		{"dies later", "triple fault", 1, nil},
		{"falls silent", "no sign of life", 1, func(m *Machine) { m.Silence = 200 * time.Millisecond }},
	} {
		_, _, boots, err := run(t, t.Context(), c.mode, c.change)
		if !errors.Is(err, ErrDead) || !strings.Contains(fmt.Sprint(err), c.says) || boots > c.boots {
			t.Errorf("%s: %d boots, %v", c.mode, boots, err)
		}
	}
}

func TestTimeIsOver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, _, _, err := run(t, ctx, "hangs later", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A runner that is killed takes its machine along; the next one removes its directory.
func TestKilledRunnerLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fakeMode+"=runner", fakeDir+"="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(pids(dir, "started")) == 0; <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never started")
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	gone(t, dir)
	runs := filepath.Join(dir, "runs")
	if left, _ := os.ReadDir(runs); len(left) != 1 {
		t.Errorf("the killed runner had %d directories", len(left))
	}
	sweep(runs)
	if left, _ := os.ReadDir(runs); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestSweepSparesTheLiving(t *testing.T) {
	parent := t.TempDir()
	dir, unlock, err := runDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	sweep(parent)
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	unlock()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("unlock: %v", err)
	}
}

func TestPointsOf(t *testing.T) {
	const mountinfo = `21 1 254:0 / / rw - ext4 /dev/vda rw
22 21 0:5 / /proc rw - proc proc rw
30 21 8:1 / /src\040dir rw - ext4 /dev/sdb rw
31 30 8:2 / /src\040dir/forefend rw - ext4 /dev/sdc rw
32 21 8:3 / /src rw - ext4 /dev/sdd rw
`
	got := pointsOf(mountinfo, "/src dir/forefend/test")
	if want := []string{"/src dir", "/src dir/forefend"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := pointsOf(mountinfo, "/src"); !slices.Equal(got, []string{"/src"}) {
		t.Errorf("got %q", got)
	}
	if got := pointsOf(mountinfo, "/home"); len(got) != 0 {
		t.Errorf("got %q", got)
	}
}
