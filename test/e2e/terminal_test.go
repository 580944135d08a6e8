package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/test/e2e/harness"
)

// onTerminal runs ctr on a terminal, waits for a shell's prompt and types script into it. It returns the exit status and what
// appeared on the screen.
func onTerminal(t *testing.T, h *host, args []string, script string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code, screen, err := harness.OnTerminal(h.CtrCommand(ctx, args...), "# ", script)
	if err != nil {
		t.Error(err)
	}
	return code, screen
}

// typed asks the shell about its terminal. The echo of what is typed does not hold the answers.
const typed = "test -t 0 && test -t 1 && echo is-a-$((1))-terminal; stty size; echo $((40+2))-lines; exit 5\n"

func terminal(t *testing.T, h *host, runtime string) {
	c := container{args: []string{"sh"}}.under(runtime).named(h.newID("tty"))
	code, screen := onTerminal(t, h, c.command(h, "--rm", "-t"), typed)
	checkTerminal(t, code, screen)
}

func execTerminal(t *testing.T, h *host, runtime string) {
	id := h.start(t, sh("sleep 1000").under(runtime))
	code, screen := onTerminal(t, h, []string{"task", "exec", "-t", "--exec-id", "tty", id, "sh"}, typed)
	checkTerminal(t, code, screen)
}

func checkTerminal(t *testing.T, code int, screen string) {
	t.Helper()
	for _, want := range []string{"is-a-1-terminal", fmt.Sprintf("%d %d", harness.TerminalHeight, harness.TerminalWidth), "42-lines"} {
		if !strings.Contains(screen, want) {
			t.Errorf("no %q on the screen:\n%s", want, screen)
		}
	}
	if code != 5 {
		t.Errorf("exit status %d", code)
	}
}
