package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
)

// labProfile lets the user "lab" loosen what others may not.
const labProfile = `
[[profile]]
name = "lab"
users = ["lab"]
grants = ["mode", "seccomp", "syscalls/ptrace", "syscalls/keyctl"]
`

const asLab = "--annotation=forefend.dev/user=lab"

// learner is one workload whatever it does: what differs between its runs is in the environment, which is no part of
// a workload's identity.
func learner(h *host, name, step string, flags ...string) container {
	return sh(": "+name+`; eval "$STEP"`, append([]string{"--env=STEP=" + step, h.withProbe()}, flags...)...)
}

// verdicts runs the probe's attacks in a container and returns the result of each.
func (h *host) verdicts(t testing.TB, c container) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for line := range strings.Lines(h.mustRun(t, c)) {
		var v struct{ Name, Result string }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out[v.Name] = v.Result
	}
	return out
}

// TestLearning follows one workload from its first run to one that is sealed, and beyond.
func TestLearning(t *testing.T) {
	h := newHost(t, harness.WithConfig(labProfile))
	const name = "learner"
	for n := 1; n <= 5; n++ {
		id := h.start(t, learner(h, name, "sleep 1000"))
		d, row := h.explain(t, id), h.row(t, id)
		if d.Prediction.Runs != n-1 || row.Sealed != (n == 5) || row.Mode != "adaptive" || row.By != "daemon" {
			t.Errorf("run %d: %d earlier runs, ps %+v", n, d.Prediction.Runs, row)
		}
		d.want(t, "sealed", map[bool]string{true: "yes", false: "no"}[n == 5], map[bool]string{true: "prediction", false: "default"}[n == 5])
		h.remove(id)
	}
	row, runs := h.history(t, name)
	if row.Runs != 5 || !row.Sealed || len(runs) != 5 {
		t.Fatalf("history: %+v with %d runs", row, len(runs))
	}
	for _, r := range runs {
		if !r.Watched || !r.Final || r.Exit.Status != 137 || r.Syscalls["execve"] == 0 || r.Usage.MemoryPeak == 0 {
			t.Errorf("a run was kept as %+v", r)
		}
	}
	t.Run("limits", func(t *testing.T) { predictedLimits(t, h, name) })
	t.Run("benign", func(t *testing.T) { benignIsLearned(t, h, name) })
	t.Run("dangerous", func(t *testing.T) { dangerousIsDenied(t, h, name) })
	t.Run("granted capability", func(t *testing.T) { capabilitySpeaks(t, h, name) })
	t.Run("enforce", func(t *testing.T) { enforceDenies(t, h) })
	t.Run("observe", func(t *testing.T) { observeDeniesNothing(t, h) })
	t.Run("one numbering", func(t *testing.T) { oneNumbering(t, h) })
	t.Run("before the first run", func(t *testing.T) { explainsImage(t, h) })
}

// predictedLimits checks that a sealed run has the limits that history suggests, in the kernel.
func predictedLimits(t *testing.T, h *host, name string) {
	id := h.start(t, learner(h, name, "sleep 1000"))
	d := h.explain(t, id)
	bounds := map[string]float64{"pids": d.Prediction.PIDs.Value, "memory.soft": d.Prediction.Memory.Value}
	if h.cgroupVersion(t, id) == 2 { // decision 0020: memory.high would hold it almost still
		if f, ok := d.find("memory.soft"); ok || d.Prediction.Memory.Value == 0 {
			t.Errorf("memory predicted %v, soft limit %+v", d.Prediction.Memory.Value, f)
		}
		delete(bounds, "memory.soft")
	}
	for key, prediction := range bounds {
		f, ok := d.find(key)
		if !ok || f.Author != "prediction" || prediction == 0 || !strings.Contains(f.Source, "history") {
			t.Errorf("%s after six runs: %+v, predicted %v", key, f, prediction)
		}
	}
	limits := h.row(t, id).Limits
	if limits.PIDs < 64 || limits.Memory != 0 {
		t.Errorf("limits %+v: processes must be bounded with room, memory softly only", limits)
	}
	if got := h.limit(t, id, "pids"); got != limits.PIDs {
		t.Errorf("the kernel's limit of processes is %d, ps says %d", got, limits.PIDs)
	}
	if got := h.limit(t, id, "memory.soft"); got != limits.MemorySoft {
		t.Errorf("the kernel's soft limit is %d, ps says %d", got, limits.MemorySoft)
	}
}

func benignIsLearned(t *testing.T, h *host, name string) {
	id := h.newID("benign")
	h.mustRun(t, learner(h, name, "mkdir /tmp/new && test -d /tmp/new").named(id))
	h.sawCall(t, id, "learned", "mkdir")
	if denied := h.calls(t, id, "denied"); len(denied) > 0 {
		t.Errorf("denied: %v", denied)
	}
	if d := h.explain(t, id); !d.Prediction.Sealed {
		t.Error("the run that learned was not sealed")
	}
	if _, runs := h.history(t, name); runs[0].Syscalls["mkdir"] != 1 {
		t.Errorf("kept as %v", runs[0].Syscalls)
	}
}

func dangerousIsDenied(t *testing.T, h *host, name string) {
	const attack = "/probe attack --json ptrace keyctl add_key unshare io_uring_setup"
	want := h.verdicts(t, learner(h, name, attack).under(stock))
	if want["ptrace"] != "ok" || want["keyctl"] != "ok" || want["add_key"] != "ok" || want["io_uring_setup"] != "ok" {
		t.Fatalf("nothing to deny: stock says %v", want)
	}
	id := h.newID("attack")
	for call, result := range h.verdicts(t, learner(h, name, attack).named(id)) {
		if result != "EPERM" && result != "ENOSYS" {
			t.Errorf("%s: %s", call, result)
		}
	}
	for _, call := range []string{"ptrace", "keyctl", "add_key", "unshare", "io_uring_setup"} {
		h.sawCall(t, id, "denied", call)
	}
	for _, e := range h.events(t, id) {
		if e.Fields["syscall"] == "ptrace" && (e.Fields["errno"] != "1" || !strings.HasSuffix(e.Fields["exe"], "/probe")) {
			t.Errorf("event %+v", e)
		}
	}
	if _, runs := h.history(t, name); runs[0].Denied["ptrace"] == 0 || runs[0].Syscalls["ptrace"] != 0 {
		t.Errorf("kept as denied %v, allowed %v", runs[0].Denied, runs[0].Syscalls)
	}
	// What was denied once has not been learned.
	if v := h.verdicts(t, learner(h, name, attack)); v["ptrace"] != "EPERM" {
		t.Errorf("the next run: %v", v)
	}
}

func capabilitySpeaks(t *testing.T, h *host, name string) {
	id := h.newID("tracer")
	v := h.verdicts(t, learner(h, name, "/probe attack --json ptrace keyctl", "--cap-add=CAP_SYS_PTRACE").named(id))
	if v["ptrace"] != "ok" || v["keyctl"] == "ok" {
		t.Errorf("with CAP_SYS_PTRACE: %v", v)
	}
	h.sawCall(t, id, "watched", "ptrace")
	f, _ := h.explain(t, id).find("syscalls/ptrace")
	if f.Text != "watch" || !strings.Contains(f.Reason, "CAP_SYS_PTRACE") {
		t.Errorf("explain: %+v", f)
	}
}

// enforceDenies runs a workload of its own: one that was surprised lately is not sealed.
func enforceDenies(t *testing.T, h *host) {
	const name = "enforced"
	for range 5 {
		h.mustRun(t, learner(h, name, "true"))
	}
	id := h.newID("enforced")
	const enforce = "--annotation=forefend.dev/mode=enforce"
	r := h.run(learner(h, name, "rmdir /home || echo refused", enforce).named(id))
	if r.Code != 0 || !strings.Contains(r.Stdout, "refused") || !strings.Contains(r.Stderr, "not permitted") {
		t.Errorf("an unseen benign call: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	h.sawCall(t, id, "denied", "rmdir")
	h.explain(t, id).want(t, "mode", "enforce", "request")
	h.mustRun(t, learner(h, name, "rmdir /home")) // the control: adaptive allows it
	t.Run("unsealed", func(t *testing.T) {        // too little evidence to deny on
		h.mustRun(t, learner(h, "newcomer", "rmdir /home", enforce))
	})
}

// attacks are those of the probe, but for x32: calls by x32 numbers are refused whatever the mode, because nobody
// ships programs that make them.
var attacks = strings.Fields(`unshare unshare_user clone_newuser clone3 setns mount umount2 pivot_root chroot open_tree
	fsopen move_mount ptrace process_vm_readv pidfd_getfd kcmp bpf perf_event_open keyctl add_key request_key
	io_uring_setup userfaultfd name_to_handle_at open_by_handle_at init_module finit_module delete_module kexec_load
	reboot swapon acct quotactl clock_settime sethostname personality syslog fanotify_init setuid setgid capset mknod
	socket_packet socket_raw socket_netlink socket_vsock socket_alg socket_bluetooth socket_can int80`)

// observeDeniesNothing compares every attack of the probe with stock: the verdicts are the same.
func observeDeniesNothing(t *testing.T, h *host) {
	observe := "--annotation=forefend.dev/mode=observe"
	all := "/probe attack --json " + strings.Join(attacks, " ")
	want := h.verdicts(t, learner(h, "observed", all).under(stock))
	id := h.newID("observed")
	got := h.verdicts(t, learner(h, "observed", all, observe, asLab).named(id))
	for name, result := range want {
		if got[name] != result {
			t.Errorf("%s: %s, stock %s", name, got[name], result)
		}
	}
	if denied := h.calls(t, id, "denied"); len(denied) > 0 || len(got) < len(attacks) {
		t.Errorf("denied: %v of %d", denied, len(got))
	}
	t.Run("needs a grant", func(t *testing.T) {
		id := h.newID("stranger")
		if v := h.verdicts(t, learner(h, "stranger", "/probe attack --json ptrace", observe).named(id)); v["ptrace"] == "ok" {
			t.Errorf("without a grant: %v", v)
		}
		d := h.explain(t, id)
		f, _ := d.find("mode")
		if f.Text != "adaptive" || !slices.ContainsFunc(f.Lost, func(l lostClaim) bool { return l.Text == "observe" }) {
			t.Errorf("explain: %+v", f)
		}
	})
}

// explainsImage asks for a policy before and after there is history, without leaving any.
func explainsImage(t *testing.T, h *host) {
	args := []string{"explain", "--namespace", h.Namespace, "--image", harness.Image("static"), "--", "/probe", "exit", "0"}
	ask := func() (d decision) {
		line := slices.Insert(slices.Clone(args), 1, "--json")
		r := h.Forefend(line...)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for range 2 { // asking is not running
		if d := ask(); d.Prediction.Level == "image+command" || d.Facts.Image.Digest == "" {
			t.Errorf("before the first run: level %q, digest %q", d.Prediction.Level, d.Facts.Image.Digest)
		}
	}
	h.mustRun(t, probe("exit", "0"))
	if d := ask(); d.Prediction.Runs != 1 || d.Prediction.Level != "image+command" {
		t.Errorf("after it: %d runs at level %q", d.Prediction.Runs, d.Prediction.Level)
	}
}

// oneNumbering: a sealed workload that makes no 32-bit calls has a filter without them, until a mount brings who knows what.
func oneNumbering(t *testing.T, h *host) {
	plain := func(step string, flags ...string) container {
		return sh(`: plain; eval "$STEP"`, append([]string{"--env=STEP=" + step}, flags...)...)
	}
	ends := func(id string) bool {
		return slices.ContainsFunc(h.explain(t, id).Notes, func(n string) bool { return strings.HasPrefix(n, "32-bit calls end") })
	}
	for n := 1; n <= 5; n++ {
		id := h.newID("plain")
		h.mustRun(t, plain("true").named(id))
		if ends(id) != (n == 5) {
			t.Errorf("run %d: notes %q", n, h.explain(t, id).Notes)
		}
	}
	id := h.newID("brought")
	got := h.verdicts(t, plain("/probe attack --json int80", h.withProbe()).named(id))
	want := h.verdicts(t, plain("/probe attack --json int80", h.withProbe()).under(stock))
	if got["int80"] != want["int80"] || ends(id) {
		t.Errorf("int 0x80 of a mounted program: %q, stock %q; notes %q", got["int80"], want["int80"], h.explain(t, id).Notes)
	}
}
