package early

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"forefend.dev/forefend/shim/internal/cmdline"
)

// defaultSocketDir is where shims listen if containerd does not say.
const defaultSocketDir = "/run/containerd/s"

// maxSpec is how long a config.json may be that is read here, in bytes.
const maxSpec = 1 << 20

// groups are the annotations that name whose shim is to serve a container, the first that is there counts: a pod has one.
var groups = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// start starts a shim for the container that the parameters name, or finds the one that serves its pod, and answers where it listens.
func start(v cmdline.Invocation, input []byte, stdout io.Writer) (done bool, err error) {
	p, ok := readParams(v, input)
	if !ok || os.Getenv("SCHED_CORE") != "" {
		return false, nil
	}
	group, ok := groupOf(v.ID)
	if !ok {
		return false, nil
	}
	dir := p.socketDir
	if dir == "" {
		dir = defaultSocketDir
	}
	path, ok := socketPath(dir, p.address, p.namespace, group)
	if !ok {
		return false, nil
	}
	socket, err := listen(dir, path)
	if errors.Is(err, syscall.EADDRINUSE) && answers(path) {
		socket, err = nil, nil
	}
	if err != nil {
		return false, nil
	}
	if p.socketDir != "" {
		if err := linkSocketDir(p.socketDir); err != nil {
			return true, errors.Join(err, discard(socket, path))
		}
	}
	if socket != nil {
		if err := serve(v, p, socket); err != nil {
			return true, errors.Join(err, discard(socket, path))
		}
	}
	_, err = stdout.Write(result("unix://" + path))
	return true, err
}

// groupOf is what the shim's socket is named after: what the bundle's annotations say, or the container's id.
func groupOf(id string) (string, bool) {
	f, err := os.Open("config.json")
	if err != nil {
		return "", false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() > maxSpec {
		return "", false
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxSpec)).Decode(&spec); err != nil {
		return "", false
	}
	for _, name := range groups {
		if group, ok := spec.Annotations[name]; ok {
			return group, true
		}
	}
	return id, true
}

// socketPath is where the shim of a group listens: shims and containerd of all versions agree on it. ok is false for names that would have to be
// cleaned as paths first.
func socketPath(dir, containerd, namespace, group string) (path string, ok bool) {
	named := containerd + "/" + namespace + "/" + group
	for element := range strings.SplitSeq(strings.TrimPrefix(named, "/"), "/") {
		if containerd == "" || element == "" || element == "." || element == ".." {
			return "", false
		}
	}
	sum := sha256.Sum256([]byte(named))
	return dir + "/" + hex.EncodeToString(sum[:]), true
}

// backlog is how many connections may wait for a shim: as many as the kernel allows.
const backlog = 1<<16 - 1

// listen makes a socket that nobody but root may connect to.
func listen(dir, path string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		return nil, errors.Join(err, syscall.Close(fd))
	}
	f := os.NewFile(uintptr(fd), path)
	err = os.Chmod(path, 0o600)
	if err == nil {
		err = syscall.Listen(fd, backlog)
	}
	if err != nil {
		return nil, errors.Join(err, discard(f, path))
	}
	return f, nil
}

// answers tells whether somebody listens at a path.
func answers(path string) bool {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer syscall.Close(fd)
	return syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) == nil
}

// discard removes a socket again; nil is none of this process.
func discard(socket *os.File, path string) error {
	if socket == nil {
		return nil
	}
	return errors.Join(socket.Close(), os.Remove(path))
}

// linkSocketDir leaves in the bundle where sockets are, for the shim's end.
func linkSocketDir(dir string) error {
	const link = "s"
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the bundle's link to the socket directory: %w", err)
	}
	return os.Symlink(dir, link)
}

// serve starts this program as the shim that serves a socket.
func serve(v cmdline.Invocation, p params, socket *os.File) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	shim, err := os.StartProcess(self, []string{self, "-namespace", p.namespace, "-id", p.id, "-address", p.address}, &os.ProcAttr{
		Env:   environment(os.Environ(), "GOMAXPROCS=4", "OTEL_SERVICE_NAME=containerd-shim-"+v.ID),
		Files: []*os.File{null, null, null, socket},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start the shim: %w", err)
	}
	if err := spare(shim.Pid); err != nil {
		return errors.Join(err, shim.Kill())
	}
	return shim.Release()
}

// environment is an environment in which some variables are set.
func environment(given []string, set ...string) []string {
	out := make([]string, 0, len(given)+len(set))
	for _, variable := range given {
		name, _, _ := strings.Cut(variable, "=")
		replaced := false
		for _, s := range set {
			replaced = replaced || strings.HasPrefix(s, name+"=")
		}
		if !replaced {
			out = append(out, variable)
		}
	}
	return append(out, set...)
}

// maxScore is the score of who goes first when memory is short (proc(5), oom_score_adj).
const maxScore = 1000

// spare has the kernel kill a process for want of memory a little sooner than containerd, which started this one, but not much.
func spare(pid int) error {
	body, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getppid()) + "/oom_score_adj")
	if err != nil {
		return fmt.Errorf("containerd's OOM score: %w", err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(body)))
	if err != nil {
		return fmt.Errorf("containerd's OOM score: %w", err)
	}
	f, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("the shim's OOM score: %w", err)
	}
	_, err = f.WriteString(strconv.Itoa(min(score+1, maxScore)))
	if err = errors.Join(err, f.Close()); err != nil && !errors.Is(err, os.ErrPermission) { // which a containerd without privileges has not
		return fmt.Errorf("the shim's OOM score: %w", err)
	}
	return nil
}
