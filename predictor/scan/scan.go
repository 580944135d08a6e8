package scan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/rootfs"
)

// Request is what to scan.
type Request struct {
	Command []string // as in the container's process.args
	Env     []string // NAME=value, as in process.env; PATH, LD_LIBRARY_PATH and LD_PRELOAD matter
	Cwd     string   // working directory inside the container; empty: /
	Cache   string   // directory that remembers objects by content; empty: nothing is remembered
}

// defaultPath is what runc and shells fall back to.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Analyze fills the command, program and system call fields of s. What it cannot follow is in s.Unknown; an error means
// that nothing can be said, above all that there is no such program.
func Analyze(ctx context.Context, root rootfs.Tree, req Request, s *evidence.Scan) error {
	if len(req.Command) == 0 {
		return errors.New("scan: no command")
	}
	s.Version, s.Command = evidence.ScanVersion, req.Command
	v := newView(root)
	st := &store{dir: req.Cache}
	if st.recall(v, req, s) {
		return nil
	}
	w := newWorld(ctx, v, st, req, s)
	if err := w.entry(); err != nil {
		return err
	}
	w.run()
	w.finish()
	if ctx.Err() != nil {
		return fmt.Errorf("scan: %w", context.Cause(ctx))
	}
	st.remember(v, req, s)
	return nil
}

func newWorld(ctx context.Context, v *view, st *store, req Request, s *evidence.Scan) *world {
	search := variable(req.Env, "PATH")
	if search == "" {
		search = defaultPath
	}
	w := &world{
		ctx: ctx, view: v, store: st, req: req, out: s,
		objects: map[string]*loaded{}, started: map[string]bool{}, calls: map[string]bool{}, listed: map[string]bool{}, noted: map[string]bool{},
	}
	for dir := range strings.SplitSeq(search, ":") {
		if strings.HasPrefix(dir, "/") {
			w.dirs = append(w.dirs, dir)
		}
	}
	w.libs = newLibraries(v, req.Env)
	return w
}

// entry starts the command itself.
func (w *world) entry() error {
	name := w.req.Command[0]
	if strings.Contains(name, "/") && !strings.HasPrefix(name, "/") {
		name = w.cwd() + "/" + name
	}
	resolved, ok := w.view.which(name, w.dirs)
	if !ok {
		return fmt.Errorf("scan: there is no program %.256q in the root filesystem", w.req.Command[0])
	}
	w.out.Entry = resolved
	w.executeNamed(name, w.req.Command, "entrypoint") // by PATH when the name has no slash
	if len(w.programs) == 0 && w.out.Arch == "" {
		return fmt.Errorf("scan: %s is no program for x86-64 or arm64", resolved)
	}
	return nil
}

func (w *world) cwd() string {
	if w.req.Cwd == "" {
		return "/"
	}
	return w.req.Cwd
}

// run follows code and what it executes and loads, until nothing new comes up.
func (w *world) run() {
	for w.ctx.Err() == nil {
		w.drain()
		before := len(w.programs) + len(w.objects)
		for i := 0; i < len(w.programs); i++ { // grows meanwhile
			w.triggers(w.programs[i])
		}
		if len(w.work) == 0 && before == len(w.programs)+len(w.objects) {
			return
		}
	}
}

// always are calls that no program's code shows: what the kernel makes on its behalf, and what runc's init still does
// after it loaded the filter (libcontainer's standard_init_linux.go): it takes on user, groups and capabilities, closes
// files, waits at the exec fifo and executes the program.
var always = strings.Fields(`
rt_sigreturn restart_syscall exit exit_group
execve read write close fcntl futex openat newfstatat fstat getdents64 close_range readlinkat prctl capset capget
setuid setgid setgroups chdir getcwd getpid getppid gettid tgkill mmap munmap mprotect madvise brk
rt_sigaction rt_sigprocmask sigaltstack sched_yield nanosleep clock_gettime epoll_ctl epoll_wait epoll_pwait
sendmsg recvmsg recvfrom faccessat2 getuid
`)

func (w *world) finish() {
	s := w.out
	for _, name := range always {
		w.calls[name] = true
	}
	s.Syscalls = slices.Sorted(maps.Keys(w.calls))
	s.Cached = w.cached
	slices.SortFunc(s.Unknown, func(a, b evidence.Unknown) int {
		return strings.Compare(a.Kind+"\x00"+a.Where+a.Why, b.Kind+"\x00"+b.Where+b.Why)
	})
}
