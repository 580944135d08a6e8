package nerdctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
)

const (
	stock    = "io.containerd.runc.v2"
	forefend = "io.containerd.forefend.v1"
)

// runtimes are what everything is done with, stock first.
var runtimes = []string{stock, forefend}

// host is an environment with nerdctl and the busybox image.
type host struct{ *harness.Env }

func newHost(t *testing.T, opts ...harness.Option) *host {
	t.Helper()
	t.Cleanup(func() { removeBridges(t) }) // once the environment is gone: the next one makes the same ones
	h := &host{harness.New(t, opts...)}
	h.load(t, "busybox")
	return h
}

// load takes an image in by nerdctl's own way: it notes for which platform an image is.
func (h *host) load(t *testing.T, name string) {
	t.Helper()
	if err := h.Nerdctl("load", "-i", h.ImageDir+"/"+name+".tar").Check(); err != nil {
		t.Fatal(err)
	}
}

// removeBridges removes the bridges of this network namespace.
func removeBridges(t *testing.T) {
	out, err := exec.Command("ip", "-o", "link", "show", "type", "bridge").Output()
	if err != nil {
		t.Errorf("list bridges: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		name := strings.TrimSuffix(strings.Fields(line)[1], ":")
		if out, err := exec.Command("ip", "link", "delete", name).CombinedOutput(); err != nil {
			t.Errorf("remove bridge %s: %v: %s", name, err, out)
		}
	}
}

// step is one nerdctl command. In its arguments, its input and its file NAME stands for a container name of the runtime's own, RUNTIME for
// the flag that selects it, ENGINE for its name, TAG for a word of the runtime's own that fits anywhere, PORT for a free port, and FILE
// for a file of the runtime's own.
type step struct {
	args  string // separated by blanks; single quotes hold an argument together
	stdin string
	file  string // what is in FILE from this step on
	types string // typed on a terminal, once a shell's prompt is there
	code  int
	want  string // a regular expression for what comes out, errors included
	// loose: what comes out is not compared, only matched with want: it holds times or sizes.
	loose bool
}

// anyCode is the exit status of a step that works on some machines only: the same is all that is asked.
const anyCode = -2

// session is a runtime's side of a comparison.
type session struct {
	h       *host
	runtime string
	words   *strings.Replacer
	hide    *strings.Replacer
}

func (h *host) session(t *testing.T, runtime, label string) *session {
	tag := strings.NewReplacer("/", "-", " ", "-", "_", "-", "'", "").Replace(strings.ToLower(label))
	if runtime == stock {
		tag += "-s"
	} else {
		tag += "-f"
	}
	port := freePort(t)
	name := "c-" + tag
	return &session{h: h, runtime: runtime,
		words: strings.NewReplacer("NAME", name, "RUNTIME", "--runtime="+runtime, "ENGINE", runtime, "TAG", tag, "PORT", port, "DIR", h.Dir, "FILE", filepath.Join(h.Dir, tag+".file")),
		hide:  strings.NewReplacer(name, "NAME", runtime, "RUNTIME", tag, "TAG", port, "PORT"),
	}
}

// do runs one step.
func (s *session) do(ctx context.Context, st step) harness.Result {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	if st.file != "" {
		if err := os.WriteFile(s.words.Replace("FILE"), []byte(s.words.Replace(st.file)), 0o600); err != nil {
			return harness.Result{Args: []string{"write"}, Code: -1, Err: err}
		}
	}
	cmd := s.h.NerdctlCommand(ctx, fields(s.words.Replace(st.args))...)
	if st.types != "" {
		code, screen, err := harness.OnTerminal(cmd, "# ", st.types)
		return harness.Result{Args: cmd.Args, Code: code, Stdout: screen, Err: err}
	}
	if st.stdin != "" {
		cmd.Stdin = strings.NewReader(s.words.Replace(st.stdin))
	}
	return s.h.Run(cmd)
}

// visible is what a user sees of a result, without what differs from run to run.
func (s *session) visible(r harness.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "exit status %d\n", r.Code)
	for _, text := range []string{r.Stdout, r.Stderr} {
		for line := range strings.Lines(s.hide.Replace(text)) {
			if strings.Contains(line, "forward signal child exited") || strings.Contains(line, "failed to inspect NetNS") {
				continue // races inside nerdctl with a process that is gone
			}
			for _, c := range changing {
				line = c.pattern.ReplaceAllString(line, c.by)
			}
			line = strings.TrimRight(line, "\r\n")
			if len(line) > longLine {
				line = fmt.Sprintf("%s… and %d more", line[:longLine], len(line)-longLine)
			}
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// longLine is as much of a line as is worth showing.
const longLine = 400

// changing is what differs between any two runs.
var changing = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`time="[^"]*" `), ""},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-][0-9:]+)`), "TIME"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "SHORT"},
	{regexp.MustCompile(`nsexec\[\d+\]`), "nsexec[PID]"},
	{regexp.MustCompile(`containerd-mount\d+`), "MOUNT"},
	{regexp.MustCompile(`\b10\.4\.\d+\.\d+\b`), "ADDRESS"},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
	{regexp.MustCompile(`(current|peak) usage: \d+`), "$1 usage: BYTES"},
	{regexp.MustCompile(`/proc/\d+/`), "/proc/PID/"},
	{regexp.MustCompile(`(net|pid|ipc|mnt|uts|cgroup):\[\d+\]`), "$1:[INODE]"},
}

// attempts is how often a scenario may be run until both runtimes show the same. Under load containerd's client loses the
// output of short processes now and then, with the stock shim as with ours: it cancels the FIFOs of a process that ended
// before they were open. A real difference shows every time.
const attempts = 3

// same runs steps, one after the other, with both runtimes, at the same time, and fails unless all they show is the same
// and as expected.
func (h *host) same(t *testing.T, steps ...step) {
	t.Helper()
	for try := 1; ; try++ {
		label := strings.TrimPrefix(t.Name(), "Test")
		if try > 1 {
			label = fmt.Sprintf("%s-%d", label, try)
		}
		problem := h.compare(t, label, steps)
		if problem == "" {
			return
		}
		if try == attempts || strings.HasPrefix(problem, "both: ") {
			t.Fatal(problem)
		}
		t.Logf("try %d: %s", try, problem)
	}
}

// compare is one attempt; it returns the first difference.
func (h *host) compare(t *testing.T, label string, steps []step) string {
	shown := make([][]string, len(runtimes))
	var both sync.WaitGroup
	for i, runtime := range runtimes {
		s := h.session(t, runtime, label)
		both.Go(func() {
			defer s.do(context.Background(), step{args: "rm -f NAME"})
			for _, st := range steps {
				text := s.visible(s.do(t.Context(), st))
				if problem := st.unexpected(text); problem != "" {
					shown[i] = append(shown[i], problem)
					return
				}
				if st.loose {
					text = ""
				}
				shown[i] = append(shown[i], text)
			}
		})
	}
	both.Wait()
	for n := range max(len(shown[0]), len(shown[1])) {
		st, forefends := steps[min(n, len(shown[0])-1)], steps[min(n, len(shown[1])-1)]
		a, b := shown[0][min(n, len(shown[0])-1)], shown[1][min(n, len(shown[1])-1)]
		if a == b && strings.HasPrefix(a, "unexpected") {
			return fmt.Sprintf("both: nerdctl %s\n%s", st.args, a)
		}
		if a != b || strings.HasPrefix(a, "unexpected") {
			return fmt.Sprintf("nerdctl %s\nstock:\n%snerdctl %s\nForefend:\n%s", st.args, a, forefends.args, b)
		}
	}
	return ""
}

// unexpected says what is wrong with what a step showed; "" when nothing is.
func (st step) unexpected(text string) string {
	if st.code != anyCode && !strings.HasPrefix(text, fmt.Sprintf("exit status %d\n", st.code)) {
		return fmt.Sprintf("unexpected (want exit status %d) %s", st.code, text)
	}
	if !regexp.MustCompile("(?m)" + st.want).MatchString(text) {
		return fmt.Sprintf("unexpected (want %q) %s", st.want, text)
	}
	return ""
}

// fields splits a command line at blanks; single quotes hold an argument together.
func fields(line string) []string {
	var args []string
	var arg strings.Builder
	begun, quoted := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				args = append(args, arg.String())
				arg.Reset()
			}
			begun = false
		default:
			begun = true
			arg.WriteRune(r)
		}
	}
	if begun {
		args = append(args, arg.String())
	}
	return args
}

// eventually polls until f reports true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !f() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// output runs a command that must succeed and returns what it wrote.
func output(t *testing.T, cmd *exec.Cmd, stdin io.Reader) string {
	t.Helper()
	cmd.Stdin = stdin
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return string(out)
}

// write makes a file in the environment's directory, which commands call DIR.
func (h *host) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sharedMount makes a directory whose mounts propagate; it goes with the test.
func (h *host) sharedMount(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(h.Dir, "shared")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the environment looks for what was left
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}
