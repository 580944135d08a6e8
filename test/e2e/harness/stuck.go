package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stuck describes shims of this environment that are still there, for a test that fails because of them: what each
// thread waits for in the kernel, and the stacks of its goroutines, which a shim writes to its log when it is asked.
func (e *Env) Stuck(ctx context.Context) string {
	found, err := e.owner().owned()
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, p := range found {
		if e.expected(p) || len(p.args) == 0 || !strings.HasPrefix(filepath.Base(p.args[0]), "containerd-shim-") {
			continue
		}
		fmt.Fprintf(&b, "%v\n", p)
		tasks, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(p.pid), "task", "*"))
		for _, task := range tasks {
			fmt.Fprintf(&b, "  thread %s: %s\n", filepath.Base(task), threadState(task))
		}
		b.WriteString(e.goroutines(ctx, p.pid))
	}
	return b.String()
}

func threadState(task string) string {
	var words []string
	status, _ := os.ReadFile(filepath.Join(task, "status"))
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "State:") || strings.HasPrefix(line, "TracerPid:") || strings.HasPrefix(line, "SigPnd:") {
			words = append(words, strings.Join(strings.Fields(line), " "))
		}
	}
	stack, _ := os.ReadFile(filepath.Join(task, "stack"))
	for line := range strings.Lines(string(stack)) {
		if _, function, ok := strings.Cut(strings.TrimSpace(line), "] "); ok {
			words = append(words, function)
		}
	}
	return strings.Join(words, ", ")
}

// goroutines asks a shim for its stacks and returns what it wrote. The signal is containerd's own convention.
func (e *Env) goroutines(ctx context.Context, pid int) string {
	before, _ := os.ReadFile(e.ContainerdLog())
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return fmt.Sprintf("  no stacks: %v\n", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		after, _ := os.ReadFile(e.ContainerdLog())
		said := string(after[min(len(before), len(after)):])
		if strings.Contains(said, "END goroutine stack dump") || !pause(ctx) {
			return strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(said)
		}
	}
}
