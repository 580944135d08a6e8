// Package child makes a test's own binary a process in a container's place: in a network namespace and a cgroup that the test made,
// doing what the test tells it, a line at a time.
package child

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"forefend.dev/forefend/netns/enter"
)

// mode says to a process that it is a child.
const mode = "FOREFEND_TEST_CHILD"

// Main is for a package's TestMain. In a child it obeys, until the test closes its input; obey gets the words of a line and
// returns an answer of one line. Elsewhere it runs the tests.
func Main(m *testing.M, obey func(words []string) (answer string, err error)) {
	if os.Getenv(mode) == "" {
		os.Exit(m.Run())
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := obey(strings.Fields(lines.Text()))
		if err != nil {
			fmt.Println("failed:", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("ok", answer)
	}
}

// Process is a child.
type Process struct {
	PID  int
	in   io.WriteCloser
	out  *bufio.Scanner
	gone <-chan struct{}
}

// Begin starts a command in a network namespace. gone is closed when it has ended; if this process ends before, it is killed where its
// SysProcAttr has a Pdeathsig.
func Begin(ns *enter.Namespace, cmd *exec.Cmd) (gone <-chan struct{}, err error) {
	started, ended := make(chan error, 2), make(chan struct{})
	go func() {
		defer close(ended)
		// Pdeathsig is that of the thread, which has nothing else to do as long as the child lives. It is never the main one: in whatever
		// namespace that is, this process is.
		err := ns.Do(func() error {
			err := cmd.Start()
			started <- err
			if err == nil {
				_ = cmd.Wait()
			}
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return ended, <-started
}

// Start starts a child in a network namespace and in the cgroup of that directory, "" for the test's. It ends with the test, or with
// the test's process.
func Start(t testing.TB, ns *enter.Namespace, cgroup string) *Process {
	t.Helper()
	return StartAs(t, "/proc/self/exe", ns, cgroup)
}

// StartAs is Start for a copy of the test's binary.
func StartAs(t testing.TB, program string, ns *enter.Namespace, cgroup string) *Process {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), mode+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	gone, err := Begin(ns, cmd)
	if err != nil {
		t.Fatal(err)
	}
	p := &Process{PID: cmd.Process.Pid, in: in, out: bufio.NewScanner(out), gone: gone}
	t.Cleanup(p.End)
	return p
}

// End ends the child and waits until it is gone. A second End does nothing.
func (p *Process) End() {
	_ = p.in.Close()
	<-p.gone
}

// Ask has the child do something and returns its answer, or what went wrong.
func (p *Process) Ask(t testing.TB, words ...string) (answer string, err error) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, strings.Join(words, " ")); err != nil {
		t.Fatal(err)
	}
	if !p.out.Scan() {
		t.Fatalf("the child ended: %v", p.out.Err())
	}
	if answer, ok := strings.CutPrefix(p.out.Text(), "ok "); ok {
		return answer, nil
	}
	return "", errors.New(p.out.Text())
}
