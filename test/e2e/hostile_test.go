package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestHostileSpec feeds specs that nobody honest writes. Each is run or refused by name, in bounded time and memory,
// and leaves the daemon as it was.
func TestHostileSpec(t *testing.T) {
	h := newHost(t)
	h.mustRun(t, sh("true"))
	daemons := h.daemons(t)
	annotations := func(prefix string, n int) func(spec) {
		return func(s spec) {
			for i := range n {
				s.at("annotations")[fmt.Sprintf("%s%d", prefix, i)] = "x"
			}
		}
	}
	for name, test := range map[string]struct {
		edit func(spec)
		says string // of the refusal; empty: it runs
	}{
		"a foreign annotation of 8 MB":   {func(s spec) { s.at("annotations")["big"] = strings.Repeat("x", 8<<20) }, ""},
		"an annotation of ours of 8 MB":  {func(s spec) { s.at("annotations")["forefend.dev/syscalls.deny"] = strings.Repeat("x", 8<<20) }, "forefend.dev/syscalls.deny"},
		"an annotation of ours of 60 KB": {func(s spec) { s.at("annotations")["forefend.dev/syscalls.deny"] = strings.Repeat("a,", 30<<10) }, "forefend.dev/syscalls.deny"},
		"100,000 foreign annotations":    {annotations("a/", 100_000), ""},
		"100,000 annotations of ours":    {annotations("forefend.dev/x", 100_000), "forefend.dev/"},
		"200,000 annotations":            {annotations("a/", 200_000), "config.json"},
		"an unknown field 5,000 deep":    {func(s spec) { s["x"] = nested(5000) }, ""},
		"15 MB of unknown fields":        {func(s spec) { s["x"] = strings.Repeat("x", 15_000_000) }, ""},
		"no process":                     {func(s spec) { delete(s, "process") }, ""},
		"no linux":                       {func(s spec) { delete(s, "linux") }, ""},
		"a process of another type":      {func(s spec) { s["process"] = "none" }, "process"},
		"a negative limit":               {func(s spec) { s.at("linux", "resources", "memory")["limit"] = -5 }, ""},
		"a limit beyond all bounds":      {func(s spec) { s.at("linux", "resources", "memory")["limit"] = 9.3e18 }, "limit"},
		"an unknown system call":         {func(s spec) { s.at("linux")["seccomp"] = profileOf("no_such_call") }, ""},
		"100,000 system call rules": {func(s spec) {
			s.at("linux")["seccomp"] = profileOf(strings.Split(strings.Repeat("read,", 100_000)+"write", ",")...)
		}, ""},
		"a capability nobody knows":       {func(s spec) { s.at("process", "capabilities")["bounding"] = []any{"CAP_NO_SUCH"} }, ""},
		"control characters in a command": {func(s spec) { s.at("process")["args"] = []any{"echo", "\x1b[31m\u202e"} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			want, got := h.runSpec(t, stock, test.edit, "true"), h.runSpec(t, forefend, test.edit, "true")
			took := time.Since(began)
			switch {
			case test.says == "" && (want.err == nil) != (got.err == nil):
				t.Errorf("stock: %v, forefend: %v", brief(want.err), brief(got.err))
			case test.says != "" && (got.err == nil || !strings.Contains(got.err.Error(), test.says)):
				t.Errorf("not refused by name: %v", brief(got.err))
			}
			if took > 20*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	if now := h.daemons(t); len(now) != 1 || now[0] != daemons[0] {
		t.Errorf("daemons %v, were %v", now, daemons)
	}
	var doctor struct{ Daemon struct{ RSS int64 } }
	h.ask(t, &doctor, "doctor")
	if rss := doctor.Daemon.RSS; rss > 150<<20 {
		t.Errorf("the daemon has grown to %d", rss)
	}
	if r := h.Forefend("history"); strings.ContainsAny(r.Stdout, "\x1b\u202e") {
		t.Errorf("history prints what could fool a terminal: %q", r.Stdout)
	}
}

func brief(err error) string { return short(fmt.Sprint(err)) }

func nested(depth int) any {
	var v any = 1
	for range depth {
		v = []any{v}
	}
	return v
}

// profileOf allows everything, and names calls that it allows besides.
func profileOf(names ...string) map[string]any {
	return map[string]any{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []any{map[string]any{"names": names, "action": "SCMP_ACT_ALLOW"}}}
}

// TestHostileConfig breaks the configuration: no container is created, and the error says where to look.
func TestHostileConfig(t *testing.T) {
	h := newHost(t)
	good, err := os.ReadFile(h.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	write := func(t *testing.T, text []byte) {
		t.Helper()
		if err := os.WriteFile(h.ConfigPath, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		add  string
		says []string
	}{
		"an unknown key":     {"\nmemroy = 5\n", []string{"memroy"}},
		"no TOML":            {"\n= = =\n", nil},
		"a bad value":        {"\nmode = \"sometimes\"\n", []string{"mode", "sometimes"}},
		"two problems":       {"\nsample = \"never\"\non_unavailable = \"maybe\"\n", []string{"sample", "on_unavailable"}},
		"a bad guardrail":    {"\n[guardrails]\nmemory = { max = \"lots\" }\n", []string{"lots"}},
		"binary":             {"\n\x00\xff\xfe\x01", nil},
		"64 MB of a comment": {"\n#" + strings.Repeat("x", 64<<20) + "\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			defer write(t, good)
			write(t, append(bytes.Clone(good), test.add...))
			id := h.newID("broken")
			r := h.run(sh("echo ran").named(id))
			if r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, h.ConfigPath) {
				t.Errorf("%d %q %q", r.Code, r.Stdout, short(r.Stderr))
			}
			for _, word := range test.says {
				line := fmt.Sprintf("%s:%d", h.ConfigPath, lineOf(string(good)+test.add, word))
				if !strings.Contains(r.Stderr, word) || !strings.Contains(r.Stderr, line) {
					t.Errorf("%q names neither %s nor %s", short(r.Stderr), word, line)
				}
			}
			if r := h.Forefend("policy", "check", h.ConfigPath); r.Code != 1 {
				t.Errorf("policy check: %d %q", r.Code, r.Stdout)
			}
			h.remove(id)
		})
	}
	t.Run("mended", func(t *testing.T) { h.mustRun(t, sh("true")) })
}

// lineOf is the number of the first line that holds word.
func lineOf(text, word string) int {
	before, _, _ := strings.Cut(text, word)
	return 1 + strings.Count(before, "\n")
}

// TestExec checks that no exec gets beyond its container's policy, and that who it runs as stays the caller's choice.
func TestExec(t *testing.T) {
	h := newHost(t)
	id := h.start(t, sh("sleep 1000", h.withProbe(), "--cap-drop=CAP_CHOWN", annotate("capabilities.drop", "NET_RAW"), "--user=1000:1000", "--rlimit-nofile=500:600"))
	t.Run("user", func(t *testing.T) {
		for user, want := range map[string]string{"0": "0\n", "user": "1000\n", "33:33": "33\n"} {
			r := h.Ctr("task", "exec", "--exec-id", h.newID("u"), "--user", user, id, "id", "-u")
			if r.Code != 0 || r.Stdout != want {
				t.Errorf("--user %s: %d %q %q", user, r.Code, r.Stdout, r.Stderr)
			}
		}
	})
	status := h.exec(id, "cat", "/proc/1/status")
	if err := status.Check(); err != nil {
		t.Fatal(err)
	}
	bound := capabilities(t, status.Stdout)
	if bound == 0 || bound&(1<<13|1<<0) != 0 {
		t.Fatalf("the container's bounding set is %x", bound)
	}
	t.Run("clipped", func(t *testing.T) {
		out := h.execSpec(t, id, func(p *specs.Process) {
			all := []string{"CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_KILL"}
			p.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: all, Ambient: all}
			p.User = specs.User{}
			p.Args = []string{"sh", "-c", "grep -e CapBnd -e CapEff -e Seccomp: /proc/self/status; /probe attack keyctl ptrace"}
		})
		got := capabilities(t, out)
		const kill = 1 << 5
		if got&^bound != 0 || got&kill == 0 {
			t.Errorf("bounding set %x, the container's is %x\n%s", got, bound, out)
		}
		for _, want := range []string{"Seccomp:\t2", "keyctl: EPERM", "ptrace: EPERM", fmt.Sprintf("CapEff:\t%016x", kill)} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in %q", want, out)
			}
		}
		eventually(t, "an event about it", func() bool {
			for _, e := range h.events(t, id) {
				if e.Kind == "denied" && strings.Contains(e.Message, "CAP_SYS_ADMIN") {
					return true
				}
			}
			return false
		})
	})
	t.Run("many", func(t *testing.T) { // each brings a listener of its own
		for range 20 {
			if r := h.exec(id, "/probe", "attack", "keyctl"); r.Stdout != "keyctl: EPERM\n" {
				t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
			}
		}
	})
}

// execSpec runs a process as containerd's client would, with the container's own process as the start.
func (h *host) execSpec(t testing.TB, id string, edit func(*specs.Process)) string {
	t.Helper()
	ctx := h.context(t)
	task := h.task(t, id)
	s, err := task.Spec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p := *s.Process
	p.Terminal = false
	edit(&p)
	var out, said bytes.Buffer
	process, err := task.Exec(ctx, h.newID("x"), &p, cio.NewCreator(cio.WithStreams(nil, &out, &said)))
	if err != nil {
		t.Fatal(err)
	}
	exits, err := process.Wait(ctx)
	if err == nil {
		err = process.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if status := <-exits; status.ExitCode() != 0 {
		t.Errorf("exec: exit status %d %v: %s", status.ExitCode(), status.Error(), said.String())
	}
	process.IO().Wait()
	if _, err := process.Delete(ctx, client.WithProcessKill); err != nil {
		t.Error(err)
	}
	return out.String()
}
