package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// The demonstration's own machinery works without Forefend: servers start, serve their load and stop in order, and the
// probe reports every call of the attack.
func TestRootMachineryUnderStockRunc(t *testing.T) {
	var out bytes.Buffer
	d := &demo{narrator: narrator{out: &out}, env: harness.New(t, harness.WithImages("redis", "nginx")), runs: 1}
	for _, s := range []server{redis(), nginx()} {
		c, err := d.start(t.Context(), stockRuntime, s.name, s.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := until(t.Context(), func() error { return s.ready(t.Context(), c.task.Pid()) }); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		rate, err := s.drive(t.Context(), c.task.Pid())
		if err != nil || !strings.HasSuffix(rate, "/s") {
			t.Errorf("%s: %q, %v", s.name, rate, err)
		}
		code, err := d.stop(t.Context(), c, s.stop)
		if err != nil || code != 0 {
			t.Errorf("%s: exit %d, %v", s.name, code, err)
		}
	}
	verdicts, err := d.breakIn(t.Context(), stockRuntime, nginx(), "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attempts {
		if verdicts[a.name].Name == "" {
			t.Errorf("no verdict on %s", a.name)
		}
	}
	if v := verdicts["ptrace"]; !v.passed() {
		t.Errorf("stock runc without seccomp denied ptrace: %+v", v)
	}
	t.Logf("stock runc: %+v", verdicts)
}

// The step about egress stands for itself: it has a containerd of its own.
func TestRootRoutes(t *testing.T) {
	root.Test(t)
	var out bytes.Buffer
	d := &demo{narrator: narrator{out: &out}}
	if err := errors.Join(d.routes(t.Context()), d.failed()); err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	t.Log(out.String())
}

func TestDataOfARequest(t *testing.T) {
	for head, want := range map[string]string{
		"":                       "",
		"GET / HTTP/1.1\r\n\r\n": "",
		"GET / HTTP/1.1\r\nHost: a\r\nx-forefend-data: public\r\n\r\n": "public",
		"X-Forefend-Data: cut": "",
	} {
		if got := dataIn(head); got != want {
			t.Errorf("%q: %q, want %q", head, got, want)
		}
	}
	for _, r := range routedRequests {
		if r.data() == "" {
			t.Errorf("no class of data in %q", r.headers)
		}
	}
}

func TestNarratorFailsWhatIsNotShown(t *testing.T) {
	var out bytes.Buffer
	n := narrator{out: &out}
	n.step("one")
	n.claim(true, "this holds")
	if n.failed() != nil {
		t.Errorf("failed: %v", n.failed())
	}
	n.claim(false, "run %d is sealed", 5)
	if err := n.failed(); err == nil || !strings.Contains(err.Error(), "run 5 is sealed") {
		t.Errorf("%v", err)
	}
	if want := "\n=== 1. one\n  ok: this holds\n  NOT SHOWN: run 5 is sealed\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestVerdictWords(t *testing.T) {
	for _, c := range []struct {
		v    verdict
		want string
	}{{verdict{}, "?"}, {verdict{Name: "bpf", Result: "ok"}, "ALLOWED"}, {verdict{Name: "bpf", Result: "EPERM", Errno: 1}, "EPERM"},
		{verdict{Name: "bpf", Result: "EINVAL", Errno: 22}, "ALLOWED, EINVAL"},
		{verdict{Name: "bpf", Result: "killed by SIGSYS", Errno: -1}, "killed by SIGSYS"}} {
		if got := c.v.words(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.v, got, c.want)
		}
	}
}

func TestLessonLine(t *testing.T) {
	l := lesson{rate: "1000/s", used: workload.Usage{MemoryPeak: 12 << 20, CPUPeak: 0.9, PIDsPeak: 5}, next: workload.Prediction{Unseen: 0.02}}
	l.container = api.Container{Sealed: true, Limits: api.Limits{MemorySoft: 64 << 20, PIDs: 32}}
	l.container.Prediction.Memory.Value = 16 << 20
	if got, want := strings.Join(strings.Fields(l.line()), " "), "16M/12M/~64M -/0.9/- -/5/32 yes 2 % 1000/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestUntilSaysWhatItWaitedFor(t *testing.T) {
	calls := 0
	err := until(t.Context(), func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestAttackTableFitsTheTerminal(t *testing.T) {
	wide := verdict{Name: "x", Result: "EINVAL", Errno: 22}.words()
	for _, a := range attempts {
		if line := fmt.Sprintf(attackRow, a.name, wide, wide, wide, a.gain); len(line) > 100 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}
