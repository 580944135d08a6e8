package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFlood makes a container do nothing but what is denied. Its shim must stay small and go on answering, and the
// daemon must hear of it once, not a hundred thousand times.
func TestFlood(t *testing.T) {
	h := newHost(t)
	const calls = 300_000
	id := h.start(t, sh("sleep 1000", h.withProbe(), "--env=GOMAXPROCS=2"))
	shims, err := h.Pids(shimBinary, "-id", id)
	if err != nil || len(shims) != 1 {
		t.Fatal(shims, err)
	}
	if r := h.exec(id, "/probe", "attack", "keyctl"); r.Stdout != "keyctl: EPERM\n" {
		t.Fatalf("%+v", r)
	}
	before := resident(t, shims[0])
	cmd := h.CtrCommand(t.Context(), "task", "exec", "--exec-id", "flood", id, "/probe", "loop", "keyctl", strconv.Itoa(calls))
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if r := h.exec(id, "echo", "meanwhile"); r.Stdout != "meanwhile\n" {
		t.Errorf("an exec during the flood: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	if err := h.Ctr("task", "metrics", id).Check(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("an exec and metrics take %v during the flood", took)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "EPERM") {
		t.Fatalf("%v %q", err, out.String())
	}
	t.Logf("%s in %v", strings.TrimSpace(out.String()), time.Since(began))
	if after := resident(t, shims[0]); after > before+8<<20 {
		t.Errorf("the shim grew from %d to %d bytes", before, after)
	}
	told := 0
	for _, e := range h.events(t, id) {
		if e.Fields["syscall"] == "keyctl" {
			told++
		}
	}
	if told == 0 || told > 10 {
		t.Errorf("%d events about it", told)
	}
	h.remove(id)
	_, runs := h.history(t, "sleep 1000")
	// None is missed. A signal that meets an answer (Go preempts by signals) makes the kernel repeat the call, which then
	// counts again: DESIGN section 10, trap 5.
	const repeated = calls / 1000
	if n := runs[0].Denied["keyctl"]; n < calls+1 || n > calls+1+repeated {
		t.Errorf("%d denied calls were counted, %d were made", n, calls+1)
	}
}

// resident is the memory of a process that is its own and not of a file, in bytes: what it allocated.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no RssAnon in %q", text)
	return 0
}
