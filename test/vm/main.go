// Command vm runs commands and tests in a throw-away virtual machine: a stock Debian kernel with cgroup v2, over this
// machine's files. The guest sees the same paths; what it writes is gone with it.
//
//	vm setup [systemd]                         once: kernel and emulator, from Debian packages; a root with systemd
//	vm run [flags] COMMAND [ARGUMENT...]       run a command, here and with this environment
//	vm test [flags] PACKAGE...                 compile these packages' tests, and run them there as root
//
// The exit status is that of the command; 124 says that -timeout was over, 125 that there was no machine.
//
// It is a test tool: nothing imports it. The same binary is also the guest's first process (package guest) and starts
// the file server (package machine).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"forefend.dev/forefend/test/vm/debian"
	"forefend.dev/forefend/test/vm/guest"
	"forefend.dev/forefend/test/vm/machine"
	"forefend.dev/forefend/test/vm/wire"
)

// Exit statuses that are not the command's, as timeout(1) and env(1) have them.
const (
	exitTimeout = 124
	exitOurs    = 125
)

func main() {
	if os.Args[0] == guest.Path {
		guest.Main()
	}
	if len(os.Args) == 5 && os.Args[1] == machine.ShareCommand {
		fail(machine.Share(os.Args[2], os.Args[3], os.Args[4]))
	}
	// The kernel ends our children when the thread that started them ends: keep to the one that lasts.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status, err := command(ctx, os.Args[1:])
	stop()
	switch {
	case err == nil:
		os.Exit(status)
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintln(os.Stderr, "vm: the time is over")
		os.Exit(exitTimeout)
	}
	fail(err)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "vm:", err)
	os.Exit(exitOurs)
}

// options are the flags of run and test.
type options struct {
	machine machine.Machine
	timeout time.Duration
	systemd bool
	run     string
	verbose bool
}

func command(ctx context.Context, args []string) (int, error) {
	verbs := []string{"setup", "run", "test"}
	if len(args) == 0 || !slices.Contains(verbs, args[0]) {
		return 0, fmt.Errorf("usage: vm %s … (see go doc ./test/vm)", strings.Join(verbs, "|"))
	}
	repo, err := repository()
	if err != nil {
		return 0, err
	}
	cache := filepath.Join(repo, ".cache", "vm")
	verb, args := args[0], args[1:]
	if verb == "setup" {
		return 0, setup(ctx, cache, args)
	}
	o, rest, err := parse(verb, args)
	if err != nil {
		return 0, err
	}
	if o.machine.Image, err = debian.Open(filepath.Join(cache, "image")); err != nil {
		return 0, fmt.Errorf("%w: run make vm-setup", err)
	}
	if o.machine.Self, err = os.Executable(); err != nil {
		return 0, err
	}
	o.machine.Dir, o.machine.Visible = filepath.Join(cache, "runs"), repo
	var steps []wire.Step
	if verb == "test" {
		steps, err = o.compile(ctx, repo, rest)
	} else {
		var dir string
		dir, err = os.Getwd()
		steps = []wire.Step{{Dir: dir, Args: rest}}
	}
	if err != nil {
		return 0, err
	}
	request := wire.Request{
		Steps: steps, Env: environment(os.Environ(), verb), Modules: o.machine.Image.Modules, Scratch: o.machine.Disk > 0,
	}
	if o.systemd {
		request.Root, request.Visible = filepath.Join(cache, systemdRoot), repo
		if _, err := os.Stat(request.Root); err != nil {
			return 0, fmt.Errorf("%w: run %s setup systemd", err, os.Args[0])
		}
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	return o.machine.Run(ctx, request)
}

// systemdRoot is the directory of the cache that holds a root with systemd.
const systemdRoot = "systemd"

func setup(ctx context.Context, cache string, args []string) error {
	say := func(s string) { fmt.Println("vm:", s) }
	switch {
	case len(args) == 0:
		return debian.Setup(ctx, filepath.Join(cache, "image"), say)
	case slices.Equal(args, []string{"systemd"}):
		return errors.Join(debian.Setup(ctx, filepath.Join(cache, "image"), say), debian.SetupRoot(ctx, filepath.Join(cache, systemdRoot), say))
	}
	return fmt.Errorf("vm setup: no %q to set up", args)
}

func parse(verb string, args []string) (options, []string, error) {
	var o options
	var disk int64
	f := flag.NewFlagSet("vm "+verb, flag.ContinueOnError)
	f.IntVar(&o.machine.CPUs, "cpus", 1, "processors; with more than one the emulator may lose interrupts")
	f.IntVar(&o.machine.Memory, "memory", 3072, "memory in MiB")
	f.Int64Var(&disk, "disk", 8192, "size in MiB of the disk under /tmp, 0 for none")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long all may take")
	f.DurationVar(&o.machine.Boot, "boot", 2*time.Minute, "how long one boot may take; there are three tries")
	f.BoolVar(&o.systemd, "systemd", false, "a root of its own with systemd as init; of the host's files only the repository is there, read-only")
	if verb == "test" {
		f.StringVar(&o.run, "run", "", "only the tests that match, as go test has it")
		f.BoolVar(&o.verbose, "v", false, "say what each test does")
	}
	if err := f.Parse(args); err != nil {
		return o, nil, err
	}
	if f.NArg() == 0 {
		return o, nil, fmt.Errorf("vm %s: nothing to run", verb)
	}
	if o.machine.CPUs < 1 || o.machine.Memory < 256 || disk < 0 {
		return o, nil, fmt.Errorf("vm %s: at least one processor and 256 MiB", verb)
	}
	o.machine.Disk = disk << 20
	o.machine.Tries, o.machine.Silence = 3, 3*time.Minute
	o.machine.Stdout, o.machine.Stderr = os.Stdout, os.Stderr
	o.machine.Log = func(s string) { fmt.Fprintln(os.Stderr, "vm:", s) }
	return o, f.Args(), nil
}

// environment is ours without what is of this machine alone.
func environment(ours []string, verb string) []string {
	env := slices.DeleteFunc(slices.Clone(ours), func(v string) bool { return strings.HasPrefix(v, "TMPDIR=") })
	if verb == "test" {
		env = append(env, "FOREFEND_ROOT_TESTS=1")
	}
	return env
}

// repository finds the root of this module.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return filepath.EvalSymlinks(d)
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("%s is not inside the repository", dir)
		}
	}
}
