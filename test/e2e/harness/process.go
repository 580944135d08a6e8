package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// process is what /proc says about one process at one moment.
type process struct {
	pid     int
	parent  int
	zombie  bool
	args    []string
	environ []byte
	cgroups []string // paths below the hierarchies' roots
	links   []string // cwd, root and exe
}

func (p process) String() string {
	return fmt.Sprintf("process %d (%s)", p.pid, strings.Join(p.args, " "))
}

// is tells whether the process runs the program name and has the other words among its arguments.
func (p process) is(name string, words ...string) bool {
	if len(p.args) == 0 || filepath.Base(p.args[0]) != name {
		return false
	}
	for _, w := range words {
		if !slices.Contains(p.args[1:], w) {
			return false
		}
	}
	return true
}

// processes lists the machine's processes except this one. One that ends meanwhile is left out.
func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

func readProcess(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	p := process{pid: pid}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, err
	}
	// The command name is in parentheses and may hold anything; what follows the last one is fields.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return p, errors.New("short stat")
	}
	p.zombie = fields[0] == "Z"
	if p.parent, err = strconv.Atoi(fields[1]); err != nil {
		return p, err
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, err
	}
	if s := strings.TrimRight(string(cmdline), "\x00"); s != "" {
		p.args = strings.Split(s, "\x00")
	}
	p.environ, _ = os.ReadFile(filepath.Join(dir, "environ")) // empty for a zombie
	cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	for line := range strings.Lines(string(cgroup)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			p.cgroups = append(p.cgroups, parts[2])
		}
	}
	for _, link := range []string{"cwd", "root", "exe"} {
		if target, err := os.Readlink(filepath.Join(dir, link)); err == nil {
			p.links = append(p.links, target)
		}
	}
	return p, nil
}

// owned lists the processes of this environment: those that were started with its configuration, name its directory,
// stand in it, or are in a cgroup of its containers.
func (o owner) owned() ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p process) bool { return !o.owns(p) || p.unwaited() }), nil
}

// unwaited tells whether the process has ended and only its parent has yet to ask how, where the parent is this
// process or init: no runtime can do anything about those.
func (p process) unwaited() bool { return p.zombie && (p.parent == os.Getpid() || p.parent == 1) }

// programs are those whose arguments or working directory tell whose they are. Any other program that names our
// directory may be somebody looking at it.
var programs = []string{"containerd", "ctr", "runc", "crun", "youki", "forefend", "forefend-agent", "forefend-scan"}

func (o owner) owns(p process) bool {
	if hasVariable(p.environ, configVariable+"="+filepath.Join(o.dir, "config.toml")) {
		return true
	}
	if slices.ContainsFunc(p.cgroups, o.ownsCgroup) {
		return true
	}
	if len(p.args) == 0 {
		return false
	}
	name := filepath.Base(p.args[0])
	if !slices.Contains(programs, name) && !strings.HasPrefix(name, "containerd-shim-") {
		return false
	}
	return slices.ContainsFunc(p.args, o.mentions) || slices.ContainsFunc(p.links, o.mentions)
}

// mentions tells whether s holds the path of our directory, not merely one that begins alike.
func (o owner) mentions(s string) bool {
	for {
		i := strings.Index(s, o.dir)
		if i < 0 {
			return false
		}
		s = s[i+len(o.dir):]
		if s == "" || s[0] < '0' || s[0] > '9' {
			return true
		}
	}
}

func hasVariable(environ []byte, variable string) bool {
	for v := range bytes.SplitSeq(environ, []byte{0}) {
		if string(v) == variable {
			return true
		}
	}
	return false
}

// Pids returns the processes of this environment that run the program name with all the given words among their
// arguments: Pids("forefend", "daemon"), Pids("containerd-shim-forefend-v1", "-id", "web").
func (e *Env) Pids(name string, words ...string) ([]int, error) {
	found, err := e.owner().owned()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range found {
		if p.is(name, words...) && !p.zombie {
			pids = append(pids, p.pid)
		}
	}
	return pids, nil
}
