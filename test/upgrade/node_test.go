package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
)

const (
	runtime    = "io.containerd.forefend.v1"
	shimBinary = "containerd-shim-forefend-v1"
)

// past is a commit that people run: the last one of the first issue.
const past = "51c3958"

// binaries of a version, in a directory of their own.
type binaries struct{ version, dir string }

// present builds the tree as it is, calling itself version.
func present(t *testing.T, version string) binaries {
	t.Helper()
	return build(t, "../..", version)
}

// old builds a commit of the past from git's archive of it.
func old(t *testing.T, commit string) binaries {
	t.Helper()
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", "../.."}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := git("cat-file", "-e", commit+"^{commit}"); err != nil {
		if shallow, _ := git("rev-parse", "--is-shallow-repository"); shallow == "true" {
			t.Skipf("this clone is shallow and has no commit %s: git fetch --unshallow", commit)
		}
		t.Fatalf("commit %s: %v: %s", commit, err, out)
	}
	source := t.TempDir()
	archive := filepath.Join(source, "source.tar")
	if out, err := git("archive", "-o", archive, commit); err != nil {
		t.Fatalf("git archive: %v: %s", err, out)
	}
	if out, err := exec.Command("tar", "-C", source, "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return build(t, source, commit)
}

func build(t *testing.T, source, version string) binaries {
	t.Helper()
	b := binaries{version, t.TempDir()}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+version, "-o", b.dir+"/",
		"./cmd/forefend", "./cmd/"+shimBinary)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", version, err, out)
	}
	return b
}

// node is a machine whose Forefend can be replaced.
type node struct {
	*harness.Env
	top  *testing.T // owns the environment
	t    *testing.T // runs now
	bin  string     // where containerd finds the shim
	next int
}

func newNode(t *testing.T, first binaries) *node {
	t.Helper()
	bin := t.TempDir()
	n := &node{top: t, t: t, bin: bin}
	n.install(first)
	repo, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	n.Env = harness.New(t, harness.WithImages("busybox"), harness.WithEnv("PATH="+bin+":"+repo+":"+os.Getenv("PATH")))
	return n
}

// step runs a part of the test.
func (n *node) step(name string, do func(t *testing.T)) {
	n.top.Run(name, func(t *testing.T) {
		n.t = t
		defer func() { n.t = n.top }()
		do(t)
	})
}

// install replaces the binaries on disk as a package manager does: a new file takes the old one's name.
func (n *node) install(b binaries) {
	n.t.Helper()
	for _, name := range []string{"forefend", shimBinary} {
		body, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			n.t.Fatal(err)
		}
		fresh := filepath.Join(n.bin, "."+name)
		if err := errors.Join(os.WriteFile(fresh, body, 0o755), os.Rename(fresh, filepath.Join(n.bin, name))); err != nil {
			n.t.Fatal(err)
		}
	}
}

// forefend runs the installed CLI.
func (n *node) forefend(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(n.bin, "forefend"), args...)
	cmd.Env = append(os.Environ(), "FOREFEND_CONFIG="+n.ConfigPath, "CONTAINERD_NAMESPACE="+n.Namespace, "CONTAINERD_ADDRESS="+n.Address,
		"PATH="+n.bin+":"+n.BinDir+":"+os.Getenv("PATH"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("forefend %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), err
}

// says reads what a command prints as JSON.
func (n *node) says(into any, args ...string) {
	n.t.Helper()
	out, err := n.forefend(append(args, "--json")...)
	if args[0] == "doctor" {
		err = nil // 1: something is missing on a test machine
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), into)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

type daemon struct {
	PID      int
	Version  string
	SetAside []string `json:"set_aside"`
}

func (n *node) daemon() daemon {
	n.t.Helper()
	var said struct{ Daemon *daemon }
	n.says(&said, "doctor")
	if said.Daemon == nil {
		return daemon{}
	}
	return *said.Daemon
}

type row struct {
	ID     struct{ Container string }
	PID    int
	By     string
	Sealed bool
	Limits struct{ Memory int64 }
}

// row is what ps has about a container.
func (n *node) row(id string) row {
	n.t.Helper()
	var list struct{ Containers []row }
	n.says(&list, "ps")
	i := slices.IndexFunc(list.Containers, func(r row) bool { return r.ID.Container == id })
	if i < 0 {
		n.t.Fatalf("%s is not in ps: %+v", id, list)
	}
	return list.Containers[i]
}

type workload struct {
	Name   string
	Runs   int
	Sealed bool
}

// history is the workload whose name contains a text, the zero value when there is none.
func (n *node) history(text string) workload {
	n.t.Helper()
	var said struct{ Workloads []workload }
	n.says(&said, "history", text)
	if len(said.Workloads) == 0 {
		return workload{}
	}
	return said.Workloads[0]
}

func (n *node) ctr(args ...string) string {
	n.t.Helper()
	r := n.Ctr(args...)
	if err := r.Check(); err != nil {
		n.t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return r.Stdout
}

// run runs a shell script in a container to its end.
func (n *node) run(script string, flags ...string) harness.Result {
	n.next++
	args := append([]string{"run", "--rm", "--runtime", runtime}, flags...)
	return n.Ctr(append(args, harness.Image("busybox"), fmt.Sprint("run-", n.next), "sh", "-c", script)...)
}

// start starts a container that stays.
func (n *node) start(id string) {
	n.t.Helper()
	n.ctr("run", "-d", "--runtime", runtime, harness.Image("busybox"), id, "sh", "-c", ": "+id+"; while :; do sleep 1; done")
	n.top.Cleanup(func() { n.remove(id) })
}

func (n *node) remove(id string) {
	n.Ctr("task", "rm", "-f", id)
	n.Ctr("container", "rm", id)
}

// works proves that a running container can be used: exec, live update, and that the daemon knows of both.
func (n *node) works(id string, mebibytes int64) {
	n.t.Helper()
	n.next++
	if out := n.ctr("task", "exec", "--exec-id", fmt.Sprint("x", n.next), id, "echo", "alive"); out != "alive\n" {
		n.t.Errorf("exec in %s: %q", id, out)
	}
	n.update(id, mebibytes<<20)
	if r := n.row(id); r.Limits.Memory != mebibytes<<20 || r.PID == 0 {
		n.t.Errorf("after an update ps has %+v", r)
	}
	var d struct{ Revision int }
	n.says(&d, "explain", id)
	if d.Revision < 2 {
		n.t.Errorf("revision %d of %s after an update", d.Revision, id)
	}
}

// ends stops a container, whose run must then be in the history, with its end.
func (n *node) ends(id string) {
	n.t.Helper()
	n.ctr("task", "rm", "-f", id)
	n.ctr("container", "rm", id)
	n.eventually("the end of "+id+" in the history", func() bool {
		var said struct {
			Runs []struct {
				ID    struct{ Container string }
				Final bool
				Exit  struct{ Status int }
			}
		}
		n.says(&said, "history", ": "+id+";")
		return len(said.Runs) == 1 && said.Runs[0].ID.Container == id && said.Runs[0].Final && said.Runs[0].Exit.Status == 137
	})
}

// shim returns the process of a container's shim.
func (n *node) shim(id string) int {
	n.t.Helper()
	pids, err := n.Pids(shimBinary, "-id", id)
	if err != nil || len(pids) != 1 {
		n.t.Fatalf("shims of %s: %v %v", id, pids, err)
	}
	return pids[0]
}

// current tells whether a process runs the shim that is installed now.
func (n *node) current(pid int) bool {
	n.t.Helper()
	its, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		n.t.Fatal(err)
	}
	installed, err := os.Stat(filepath.Join(n.bin, shimBinary))
	if err != nil {
		n.t.Fatal(err)
	}
	return os.SameFile(its, installed)
}

// endDaemon ends the daemon as a service manager does.
func (n *node) endDaemon() {
	n.t.Helper()
	n.eventually("the end of the daemon", func() bool {
		pids, err := n.Pids("forefend", "daemon")
		if err != nil {
			n.t.Fatal(err)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
		return len(pids) == 0
	})
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			n.t.Fatalf("in vain: %s", what)
		}
	}
}
