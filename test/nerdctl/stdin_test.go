package nerdctl

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// rounds is how often each way to give a process its input has to work. Stock fails most of them
// (docs/decisions/0008): it is not compared, only tried, in TestStockHangs.
const rounds = 20

// TestStdin gives processes an input that has already ended when they are made.
func TestStdin(t *testing.T) {
	h := newHost(t)
	if err := h.Import(t.Context(), "busybox"); err != nil {
		t.Fatal(err)
	}
	if err := h.Nerdctl("run", "-d", "--name", "sleeper", "--runtime", forefend, "busybox", "sleep", "1000").Check(); err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 10<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(large)
	digest := fmt.Sprintf("%x  -\n", md5.Sum(large))
	for name, way := range map[string]func(ctx context.Context, i int, program string) *exec.Cmd{
		"ctr run": func(ctx context.Context, i int, program string) *exec.Cmd {
			return h.CtrCommand(ctx, "run", "--rm", "--runtime", forefend, harness.Image("busybox"), fmt.Sprintf("early-%s-%d", program, i), program)
		},
		"nerdctl run": func(ctx context.Context, _ int, program string) *exec.Cmd {
			return h.NerdctlCommand(ctx, "run", "-i", "--rm", "--runtime", forefend, "busybox", program)
		},
		"nerdctl exec": func(ctx context.Context, _ int, program string) *exec.Cmd {
			return h.NerdctlCommand(ctx, "exec", "-i", "sleeper", program)
		},
		"ctr exec": func(ctx context.Context, i int, program string) *exec.Cmd {
			return h.CtrCommand(ctx, "task", "exec", "--exec-id", fmt.Sprintf("e-%s-%d", program, i), "sleeper-id", program)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			run := func(i int, program string, input []byte, want string) {
				cmd := way(ctx, i, program)
				for n, a := range cmd.Args {
					if a == "sleeper-id" {
						cmd.Args[n] = h.id(t, "sleeper")
					}
				}
				if got := output(t, cmd, bytes.NewReader(input)); got != want {
					t.Fatalf("try %d: %d bytes, want %.40q: %.40q", i, len(got), want, got)
				}
			}
			for i := range rounds {
				run(i, "cat", []byte("abc\n"), "abc\n")
			}
			run(rounds, "cat", nil, "")
			// Of a large output the stock shim, and so ours, can lose the end: the digest is small.
			run(0, "md5sum", large, digest)
		})
	}
	t.Run("none", func(t *testing.T) { // a process that reads without having been given anything
		h.same(t,
			step{args: "run --rm --name NAME RUNTIME busybox cat"},
			step{args: "run -d --name NAME RUNTIME busybox sh -c 'cat; echo end of input; sleep 1000'"},
			step{args: "exec NAME cat"},
			step{args: "logs NAME", want: "^end of input$"},
			step{args: "run -d -i --name NAME-2 RUNTIME busybox cat", code: 1, want: "cannot be specified together"},
		)
	})
}

// TestStockHangs shows that the difference is still there: when the stock shim reads an early end of input too, decision
// 0008 has served its time.
func TestStockHangs(t *testing.T) {
	h := newHost(t)
	for i := range 5 {
		name := fmt.Sprintf("stock-%d", i)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		cmd := h.NerdctlCommand(ctx, "run", "-i", "--name", name, "--runtime", stock, "busybox", "cat")
		cmd.Stdin = strings.NewReader("abc\n")
		err := cmd.Run()
		hung := ctx.Err() != nil
		cancel()
		if hung {
			return
		}
		t.Logf("try %d: %v", i, err)
	}
	t.Error("stock did not hang in 5 tries: see docs/decisions/0008")
}

// id returns the id of the container called name.
func (h *host) id(t *testing.T, name string) string {
	t.Helper()
	r := h.Nerdctl("inspect", "--format", "{{.ID}}", name)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(r.Stdout)
}
