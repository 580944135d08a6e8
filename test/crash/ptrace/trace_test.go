package ptrace

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// scriptVariable makes this test binary a tracer of a shell script. What it sees goes to standard output.
const scriptVariable = "FOREFEND_TRACE_SCRIPT"

func TestMain(m *testing.M) {
	if script := os.Getenv(scriptVariable); script != "" {
		if err := traceScript(script); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// traceScript runs a shell under a tracer that kills it once a directory "two" has been made.
func traceScript(script string) error {
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	shell, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "read go; " + script}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{in.Fd(), 1, 2},
	})
	if err != nil {
		return err
	}
	_ = in.Close()
	return Run(Handler{
		Exec: func(p *Process) Mode {
			if p.Is("sh") { // the shell's own: its start returns in the midst of it
				return Follow
			}
			fmt.Println("exec", filepath.Base(p.Args[0]))
			if p.Is("mkdir") {
				return Step
			}
			return Leave
		},
		Call: func(c *Call) {
			dir, path := 0, 1
			switch c.Number {
			case mkdirNumber:
				dir, path = -1, 0
			case unix.SYS_MKDIRAT:
			default:
				return
			}
			fmt.Println(filepath.Base(c.Path(dir, path)), c.Done, c.Result)
			if c.Done && filepath.Base(c.Path(dir, path)) == "two" {
				_ = unix.Kill(shell, unix.SIGKILL)
			}
		},
	}, map[int]Mode{shell: Follow}, func() { _, _ = out.WriteString("go\n") })
}

func traced(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), scriptVariable+"="+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return string(out)
}

func TestKilledBetweenTwoCalls(t *testing.T) {
	dir := t.TempDir()
	got := traced(t, "cd "+dir+"; mkdir one; mkdir two; mkdir three")
	if want := "exec mkdir\none false 0\none true 0\nexec mkdir\ntwo false 0\ntwo true 0\n"; got != want {
		t.Errorf("saw %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "three")); err == nil {
		t.Error("it went on after its death")
	}
}

func TestResultsAndFreedom(t *testing.T) {
	dir := t.TempDir()
	got := traced(t, "mkdir "+dir+" 2> "+dir+"/said; ls / > /dev/null; (sleep 0; echo subshell)")
	for _, want := range []string{fmt.Sprintf("true %d", -int(unix.EEXIST)), "exec ls", "exec sleep", "subshell"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

func TestNoSuchProcess(t *testing.T) {
	if err := Run(Handler{}, map[int]Mode{1 << 30: Step}, func() { t.Error("ready") }); err == nil {
		t.Error("traced a process that cannot be")
	}
}
