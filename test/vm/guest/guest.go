// Package guest is the first process of the virtual machine. It makes the host's files its root, mounts what a stock
// Debian would have mounted, with cgroup v2 alone and every controller on, runs the steps it is asked to, tells how
// they ended and powers the machine off.
//
// Nothing but the kernel may start it: it takes the machine for its own.
package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/vm/wire"
)

// Names that the host gives its devices.
const (
	Port    = "forefend.vm" // the serial port of package wire
	RootTag = "root"        // the file system with the host's files
	Path    = "/init"       // this program, in the initial RAM disk
)

// alive is how often the guest says that it is. The host takes silence of many times this long for a crash.
const alive = 5 * time.Second

// Main does everything and never returns.
func Main() {
	work := boot
	if os.Getpid() != 1 {
		work = continued
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Pause() // an end of the first process would be a kernel panic
}

// boot sets up only what it takes to talk to the host; everything after can tell the host why it failed.
func boot() error {
	if err := mountAll(early); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	port, err := openPort("/sys/class/virtio-ports", "/dev")
	if err != nil {
		return err
	}
	c := wire.New(port)
	if err := serve(c, port); err != nil {
		return errors.Join(err, c.Write(wire.Failed, []byte(err.Error())))
	}
	return nil
}

func serve(c *wire.Conn, port *os.File) error {
	if err := c.Write(wire.Hello, nil); err != nil {
		return err
	}
	kind, body, err := c.Read()
	if err != nil || kind != wire.Run {
		return fmt.Errorf("no request from the host: frame %q, %w", kind, err)
	}
	var r wire.Request
	if err := json.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := furnish(r); err != nil {
		return err
	}
	if r.Root != "" {
		return handOver(port, r)
	}
	return runAll(c, r)
}

// runAll runs every step and tells the result.
func runAll(c *wire.Conn, r wire.Request) error {
	go func() {
		for range time.Tick(alive) {
			_ = c.Write(wire.Alive, nil)
		}
	}()
	if err := c.Write(wire.Started, nil); err != nil {
		return err
	}
	result := wire.Result{}
	for _, step := range r.Steps {
		begin := time.Now()
		status, err := run(c, step, r.Env)
		if err != nil {
			return err
		}
		if step.Name != "" {
			fmt.Fprint(c.Stream(wire.Out), closing(step.Name, status, time.Since(begin)))
		}
		if result.Status == 0 {
			result.Status = status
		}
	}
	return c.WriteJSON(wire.Exit, result)
}

// closing is the line that go test ends a package with.
func closing(name string, status int, took time.Duration) string {
	word := "ok  "
	if status != 0 {
		word = "FAIL"
	}
	return fmt.Sprintf("%s\t%s (in the VM)\t%.1fs\n", word, name, took.Seconds())
}

// loadModules loads every file of dir in the order of their names.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// openPort opens the serial port that bears our name.
func openPort(sys, dev string) (*os.File, error) {
	names, err := filepath.Glob(filepath.Join(sys, "*/name"))
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(name)) == Port {
			return os.OpenFile(filepath.Join(dev, filepath.Base(filepath.Dir(file))), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no serial port is named %s", Port)
}

// drain is how long output may still come after a step has ended and everything it started was killed.
const drain = 5 * time.Second

// run runs one step to its end and ends whatever it left running.
func run(c *wire.Conn, step wire.Step, env []string) (int, error) {
	if len(step.Args) == 0 {
		return 0, errors.New("a step without a command")
	}
	group, err := newGroup()
	if err != nil {
		return 0, err
	}
	defer group.Close()
	stdout, outDone, err := outlet(c.Stream(wire.Out))
	if err != nil {
		return 0, err
	}
	stderr, errDone, err := outlet(c.Stream(wire.Err))
	if err != nil {
		return 0, err
	}
	status, err := spawn(step, env, group, stdout, stderr)
	_, _ = stdout.Close(), stderr.Close()
	if err != nil { // as a shell says that it cannot run a command
		fmt.Fprintf(c.Stream(wire.Err), "vm: %v\n", err)
		status = 127
	}
	if err := killGroup(group); err != nil {
		return 0, err
	}
	deadline := time.After(drain)
	for _, done := range []<-chan struct{}{outDone, errDone} {
		select {
		case <-done:
		case <-deadline:
			fmt.Fprintln(c.Stream(wire.Err), "vm: something outlived the command and still holds its output")
		}
	}
	return status, nil
}

// outlet is the writing end of a pipe whose content goes to w; done is closed once the pipe's last writer is gone.
func outlet(w io.Writer) (write *os.File, done <-chan struct{}, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer read.Close()
		_, _ = io.Copy(w, read)
	}()
	return write, ended, nil
}

// spawn starts a step in group and returns its exit status. As the first process it must wait for every orphan, so it
// waits for whatever ends.
func spawn(step wire.Step, env []string, group *os.File, stdout, stderr *os.File) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	if info, err := os.Stat(step.Dir); err != nil || !info.IsDir() {
		return 0, fmt.Errorf("directory %s: %w", step.Dir, errors.Join(err, unix.ENOTDIR))
	}
	path, err := lookPath(step.Args[0], step.Dir, env)
	if err != nil {
		return 0, err
	}
	pid, err := forkExec(path, step, env, group, null, stdout, stderr)
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", path, err)
	}
	return reaper.wait(pid), nil
}

// reaper waits for all processes of the machine.
var reaper = &reap{ended: make(map[int]int)}

type reap struct {
	once  sync.Once
	mu    sync.Mutex
	cond  *sync.Cond
	ended map[int]int // exit status by process; guarded by mu
}

// wait returns the exit status of one process, which must be a child of this one.
func (r *reap) wait(pid int) int {
	r.once.Do(func() {
		r.cond = sync.NewCond(&r.mu)
		go r.loop()
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if status, ok := r.ended[pid]; ok {
			clear(r.ended) // orphans' too: nobody will ask for them
			return status
		}
		r.cond.Wait()
	}
}

func (r *reap) loop() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.ECHILD): // until the next step
			time.Sleep(alive / 500)
			continue
		case err != nil:
			continue
		}
		r.mu.Lock()
		r.ended[pid] = exitStatus(status)
		r.cond.Broadcast()
		r.mu.Unlock()
	}
}

func exitStatus(s unix.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
