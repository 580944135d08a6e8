package crash

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/crash/ptrace"
)

// victim is who is killed.
type victim string

const (
	shim       victim = "shim"
	daemon     victim = "daemon"
	containerd victim = "containerd"
	runc       victim = "runc"
)

const shimBinary = "containerd-shim-forefend-v1"

// plan is what the tracer of one cell is told.
type plan struct {
	Step       string
	Victim     victim
	ID         string
	Dir        string // of the environment
	Containerd int
}

// scene is what the tracer knows of the processes.
type scene struct {
	plan
	shim, runc, daemon int
	hits               int
	over               bool
}

// runPlan is the tracer process: it follows containerd with all that it starts, and the daemon, and at the step
// kills the victim. It ends with its parent, or when its standard input does.
func runPlan(text string) error {
	s := &scene{}
	if err := json.Unmarshal([]byte(text), &s.plan); err != nil {
		return err
	}
	st, ok := steps.find(s.Step)
	if !ok {
		return fmt.Errorf("no step %q", s.Step)
	}
	var handling sync.Mutex
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1)) // ends with the test
		handling.Lock()
		os.Exit(0) // sets everything free
	}()
	processes := map[int]ptrace.Mode{s.Containerd: ptrace.Follow}
	s.daemon = s.readDaemon()
	switch st.in {
	case inDaemon:
		processes[s.daemon] = ptrace.Step
	case inContainerd:
		processes[s.Containerd] = ptrace.Step
	}
	return ptrace.Run(ptrace.Handler{
		Handling: &handling,
		Exec:     func(p *ptrace.Process) ptrace.Mode { return s.executed(p, st) },
		Call: func(c *ptrace.Call) {
			if !s.over && st.call != nil && s.steps(c.Process, st) && st.call(s, c) {
				s.reached(st)
			}
		},
	}, processes, func() { fmt.Println("ready") })
}

// executed notes who a process is and chooses how closely it is followed.
func (s *scene) executed(p *ptrace.Process, st step) ptrace.Mode {
	switch {
	case p.Is(shimBinary, "-id", s.ID) && !p.Is(shimBinary, "start") && !p.Is(shimBinary, "delete"):
		s.shim = p.PID
	case p.Is(shimBinary), p.Is("containerd-shim-runc-v2"):
	case p.Is("runc") && verb(p) != "" && verb(p) != "init":
		s.runc = p.PID
	case p.Is("containerd"):
		return ptrace.Follow
	default:
		return ptrace.Leave
	}
	if !s.over && st.call == nil && s.steps(p, st) {
		s.reached(st)
	}
	if s.steps(p, st) && st.call != nil && !s.over {
		return ptrace.Step
	}
	return ptrace.Follow
}

// verb is the command that a runc process was given.
func verb(p *ptrace.Process) string {
	for _, a := range p.Args[1:] {
		switch a {
		case "create", "start", "exec", "update", "kill", "delete", "state", "init":
			return a
		}
	}
	return ""
}

// steps tells whether the step is one of this process.
func (s *scene) steps(p *ptrace.Process, st step) bool {
	switch st.in {
	case inShim:
		return p.PID == s.shim
	case inDaemon:
		return p.PID == s.daemon
	case inContainerd:
		return p.PID == s.Containerd
	}
	return p.Is("runc") && verb(p) == string(st.in)
}

// reached counts the step, and kills when it is the time.
func (s *scene) reached(st step) {
	if s.hits++; s.hits < max(st.nth, 1) {
		return
	}
	s.over = true
	pid := map[victim]int{shim: s.shim, daemon: s.readDaemon(), containerd: s.Containerd, runc: s.runc}[s.Victim]
	if pid == 0 {
		fmt.Println("failed: there is no", s.Victim)
		return
	}
	fmt.Println("hit") // before: the test may end this process as soon as it sees what the kill does
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		fmt.Println("failed: kill", s.Victim, err)
	}
}

// readDaemon is the process id that the daemon wrote into its lock.
func (s *scene) readDaemon() int {
	text, _ := os.ReadFile(filepath.Join(s.Dir, "run", "daemon.lock")) // nobody's: 0
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// tracer is a running tracer process, as the test sees it.
type tracer struct {
	cmd   *exec.Cmd
	in    io.Closer // the tracer ends with it
	lines chan string
	said  []string
}

// trace starts the tracer of a cell and waits until it holds its processes.
func (h *host) trace(t testing.TB, p plan) *tracer {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	tr := &tracer{cmd: exec.Command(os.Args[0]), lines: make(chan string, 64)}
	tr.cmd.Env = append(os.Environ(), tracerVariable+"="+string(text))
	in, err := tr.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	tr.in = in
	out, err := tr.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	tr.cmd.Stderr = os.Stderr
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(tr.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			tr.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() { _ = in.Close() })
	if line := <-tr.lines; line != "ready" {
		t.Fatalf("the tracer says %q", line)
	}
	return tr
}

// await waits until the step was reached: what the daemon writes it writes when it likes.
func (tr *tracer) await(t testing.TB) {
	t.Helper()
	select {
	case line := <-tr.lines:
		tr.said = append(tr.said, line)
	case <-time.After(cleanWithin):
		t.Error("the step is never reached")
	}
}

// stop sets all processes free and tells whether the step was reached.
func (tr *tracer) stop() (hit bool, said []string) {
	_ = tr.in.Close()
	stuck := time.AfterFunc(cleanWithin, func() { _ = tr.cmd.Process.Kill() })
	defer stuck.Stop()
	for line := range tr.lines {
		tr.said = append(tr.said, line)
	}
	_ = tr.cmd.Wait() // what it had to say was read
	return slices.Equal(tr.said, []string{"hit"}), tr.said
}
