package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestOracle makes random changes of a running container, and after each of them compares the kernel's files, what a process
// in the container may do, and what Forefend says with what an oracle expects. ORACLE is the number of changes (`make oracle`: 1,000);
// ORACLE_SEED repeats a run.
func TestOracle(t *testing.T) {
	changes, seed := 40, uint64(time.Now().UnixNano())
	for name, into := range map[string]any{"ORACLE": &changes, "ORACLE_SEED": &seed} {
		if text := os.Getenv(name); text != "" {
			if _, err := fmt.Sscan(text, into); err != nil {
				t.Fatalf("%s=%q is no number", name, text)
			}
		}
	}
	// Nobody but the operator may speak: no scan, no safeguards.
	h := newHost(t, harness.WithConfig("[scan]\nenabled = false\n[safeguards]\nlive = false\n"+oracleGuardrail))
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWitness(t, h)
	o := newOracle(capable(t, unix.CAP_SYS_RESOURCE))
	if w.disk = aDisk(t); w.disk != "" {
		o.hasDisk(w.disk, h.ioWeight(t, w.id) != 0)
	}
	h.agentState(t, w.id, "--now") // the agent, and the thread that works in the container's mounts, stay once they are there
	for _, key := range []string{"readonly_root=on", "readonly_root=off"} {
		h.adjust(t, "set", w.id, key)
	}
	o.claims["readonly_root"] = claimed{"off", 3}
	o.revision, o.past[2], o.past[3] = 3, map[string]claimed{"readonly_root": {"on", 2}}, map[string]claimed{"readonly_root": {"off", 3}}
	w.check(o)
	before := w.held()
	var made []string
	refused := 0
	for step := range changes {
		s := o.change(random)
		line := append([]string{s.args[0], w.id}, s.args[1:]...)
		made = append(made, strings.Join(s.args, " "))
		r := h.Forefend(line...)
		if r.Code != s.code {
			t.Errorf("%s: exit status %d, want %d (%s)\n%s%s", made[step], r.Code, s.code, s.what, r.Stdout, r.Stderr)
		}
		refused += s.code
		w.check(o)
		if t.Failed() {
			t.Fatalf("change %d, seed %d, after\n  %s", step+1, seed, strings.Join(made, "\n  "))
		}
	}
	if o.frozen {
		o.frozen = false
		h.adjust(t, "thaw", w.id)
	}
	if r := h.Forefend("reset", w.id); r.Code != o.becomes(nil, map[string]claimed{}).code {
		t.Errorf("reset: %s%s", r.Stdout, r.Stderr)
	}
	w.check(o)
	t.Logf("%d changes, %d of them refused, revision %d", changes, refused, o.revision)
	var after holdings
	if !within(15*time.Second, func() bool { after = w.held(); return !after.more(before) }) {
		t.Errorf("held at the end %+v, at the beginning %+v", after, before)
	}
	t.Logf("held at the beginning %+v, at the end %+v", before, after)
}

func decimal(n int) string { return strconv.Itoa(n) }

// capable reports whether this process, and so every shim of the test, has a capability.
func capable(t *testing.T, capability uint) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}

// witness looks at a container from all sides.
type witness struct {
	*host
	t         *testing.T
	id        string
	pid, shim int
	score     int64  // for the OOM killer, that the container began with
	disk      string // by its numbers; empty: this machine has none
}

func newWitness(t *testing.T, h *host) *witness {
	o := newOutside(t)
	id, _ := h.worldly(t, o, sh("mkdir /data; echo secret > /data/secret; echo > /data/plain; echo > /dev/shm/ready; sleep 100000",
		h.withProbe(), "--memory-limit=134217728", "--cpus=1"))
	eventually(t, "the container's files", func() bool { return h.exec(id, "test", "-e", "/dev/shm/ready").Code == 0 })
	shims, err := h.Pids(shimBinary, "-id", id)
	if err != nil || len(shims) != 1 {
		t.Fatalf("shims %v: %v", shims, err)
	}
	w := &witness{host: h, t: t, id: id, pid: int(h.task(t, id).Pid()), shim: shims[0]}
	if w.score, err = strconv.ParseInt(w.file(fmt.Sprintf("/proc/%d", w.pid), "oom_score_adj"), 10, 64); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *witness) check(o *oracle) {
	w.t.Helper()
	w.kernel(o)
	w.told(o)
	if !o.frozen {
		w.inside(o)
	}
}

// number is what a count was set to.
func number(claims map[string]claimed, key string, otherwise int64) int64 {
	c, ok := claims[key]
	if !ok {
		return otherwise
	}
	n, err := strconv.ParseInt(c.value, 10, 64)
	if err != nil {
		panic(err) // of a test's own words
	}
	return n
}

// kernel compares the kernel's files.
func (w *witness) kernel(o *oracle) {
	w.t.Helper()
	bytes := map[string]int64{"": 0, "32Mi": 32 << 20, "48Mi": 48 << 20, "64Mi": 64 << 20, "96Mi": 96 << 20, "128Mi": 128 << 20, "200Mi": 200 << 20}
	quota := map[string]int64{"0.5": 50_000, "1": 100_000, "1.5": 150_000, "2": 200_000}
	for what, want := range map[string]int64{
		"memory":      bytes[o.is("memory", "128Mi")],
		"memory.soft": bytes[o.is("memory.soft", "")],
		"cpu.quota":   quota[o.is("cpus", "1")],
		"pids":        number(o.claims, "pids", 0),
	} {
		if has := w.limit(w.t, w.id, what); has != want {
			w.t.Errorf("the kernel has %s %d, want %d", what, has, want)
		}
	}
	if dir, version := cgroupOf(w.t, w.pid, "cpu"); version == 1 {
		if has, want := w.file(dir, "cpu.shares"), fmt.Sprint(number(o.claims, "cpu.shares", 1024)); has != want {
			w.t.Errorf("the kernel has cpu.shares %s, want %s", has, want)
		}
	}
	if w.disk != "" {
		rates := map[string]int64{"": 0, "4Mi": 4 << 20, "8Mi": 8 << 20, "16Mi": 16 << 20, "32Mi": 32 << 20}
		w.wantRates(w.t, w.id, w.disk, rates[o.is("io.read/"+w.disk, "")], rates[o.is("io.write/"+w.disk, "")])
		if has, want := w.ioWeight(w.t, w.id), number(o.claims, "io.weight", 100); has != 0 && has != want {
			w.t.Errorf("the kernel has io.weight %d, want %d", has, want)
		}
	}
	if dir, version := cgroupOf(w.t, w.pid, "freezer"); version == 1 {
		if has := w.file(dir, "freezer.state"); (has == "FROZEN") != o.frozen {
			w.t.Errorf("the container is %s, frozen wanted: %v", has, o.frozen)
		}
	}
	proc := filepath.Join("/proc", strconv.Itoa(w.pid))
	if has, want := w.file(proc, "oom_score_adj"), fmt.Sprint(number(o.claims, "oom_score_adj", w.score)); has != want {
		w.t.Errorf("oom_score_adj is %s, want %s", has, want)
	}
	for line := range strings.Lines(w.file(proc, "limits")) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max open files") && f[4] != fmt.Sprint(o.nofile) {
			w.t.Errorf("the hard limit of open files is %s, want %d", f[4], o.nofile)
		}
	}
}

func (w *witness) file(dir, name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// told compares what `forefend explain` says.
func (w *witness) told(o *oracle) {
	w.t.Helper()
	d := w.explain(w.t, w.id)
	if d.Revision != o.revision {
		w.t.Errorf("explain: revision %d, want %d", d.Revision, o.revision)
	}
	for key, values := range o.keys {
		f, found := d.find(key)
		c, operated := o.claims[key]
		if operated != (found && f.Author == "operator") {
			w.t.Errorf("explain: %s is %q by %s, the operator said %q", key, f.Text, f.Author, c.value)
		}
		for _, v := range values {
			if operated && v[0] == c.value && f.Text != v[1] {
				w.t.Errorf("explain: %s is %q, want %q", key, f.Text, v[1])
			}
		}
	}
	sealed := "no"
	if o.is("mode", "adaptive") == "observe" { // which applies no default
		sealed = ""
	}
	for key, text := range map[string]string{"memory": "128 MiB", "cpus": "1", "mode": "adaptive", "sealed": sealed} {
		if _, operated := o.claims[key]; !operated {
			if f, _ := d.find(key); f.Text != text {
				w.t.Errorf("explain: %s is %q again, want %q", key, f.Text, text)
			}
		}
	}
}

// inside compares what a process in the container may do.
func (w *witness) inside(o *oracle) {
	w.t.Helper()
	verdict := func(refused bool, errno string) string {
		if refused {
			return errno
		}
		return "ok"
	}
	readonly := o.is("readonly_root", "off") == "on"
	secret := int64(len("secret\n"))
	if o.is("masked_paths//data/secret", "visible") == "masked" {
		secret = 0
	}
	want := map[string]string{
		"write=/w":          verdict(readonly, "EROFS"),
		"write=/data/plain": verdict(readonly || o.is("readonly_paths//data/plain", "writable") == "readonly", "EROFS"),
		"send=192.0.2.1:9":  verdict(o.is("network", "on") == "off", "EPERM"),
		"read=/data/secret": "ok",
		"nofile":            "ok",
	}
	value := map[string]int64{"read=/data/secret": secret, "nofile": o.nofile}
	line := []string{"/probe", "try", "--json"}
	for _, call := range []string{"mkdir", "rmdir", "symlink", "keyctl"} {
		want["call="+call] = verdict(o.refuses(call), "EPERM")
	}
	for what := range want {
		line = append(line, what)
	}
	r := w.exec(w.id, line...)
	seen := 0
	for text := range strings.Lines(r.Stdout) {
		var v struct {
			Name, Result string
			Value        int64
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			w.t.Fatalf("%q: %v", text, err)
		}
		seen++
		if strings.HasPrefix(v.Name, "call=") && v.Result != "EPERM" {
			v.Result = "ok" // the kernel's own answer to empty paths
		}
		if n, counted := value[v.Name]; v.Result != want[v.Name] || counted && v.Value != n {
			w.t.Errorf("in the container: %s: %s %d, want %s %d", v.Name, v.Result, v.Value, want[v.Name], n)
		}
	}
	if seen != len(want) {
		w.t.Errorf("%d of %d trials were made: %v", seen, len(want), r.Check())
	}
}

// holdings are what a container costs its node beside memory.
type holdings struct{ fds, goroutines, mounts, mountsInside, cgroups int }

// more reports what there is more of than before, beyond what comes and goes with calls that are being served.
func (a holdings) more(before holdings) bool {
	const passing = 4
	return a.fds > before.fds+passing || a.goroutines > before.goroutines+passing ||
		a.mounts > before.mounts || a.mountsInside > before.mountsInside || a.cgroups > before.cgroups
}

func (w *witness) held() (h holdings) {
	w.t.Helper()
	mounts := func(pid int, word string) (n int) {
		for line := range strings.Lines(w.file(filepath.Join("/proc", strconv.Itoa(pid)), "mountinfo")) {
			if strings.Contains(line, word) {
				n++
			}
		}
		return n
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.shim))
	if err != nil {
		w.t.Fatal(err)
	}
	h.fds, h.goroutines = len(fds), w.goroutines()
	h.mounts, h.mountsInside = mounts(w.shim, w.Dir), mounts(w.pid, "") // others share the machine
	for _, controller := range []string{"memory", "pids", "cpu", "freezer"} {
		if dir, version := cgroupOf(w.t, w.pid, controller); version == 1 || controller == "memory" {
			under, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", "cgroup.procs"))
			h.cgroups += len(under)
		}
	}
	return h
}

var (
	dumped    = regexp.MustCompile(`=== BEGIN goroutine stack dump ===.*=== END goroutine stack dump ===`)
	goroutine = regexp.MustCompile(`goroutine \d+ \[`)
)

// goroutines counts those of the shim, which writes their stacks to containerd's log on SIGUSR1.
func (w *witness) goroutines() (n int) {
	w.t.Helper()
	dumps := func() []string {
		text, err := os.ReadFile(w.ContainerdLog())
		if err != nil {
			w.t.Fatal(err)
		}
		return dumped.FindAllString(string(text), -1)
	}
	had := len(dumps())
	if err := syscall.Kill(w.shim, syscall.SIGUSR1); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the shim's stacks", func() bool {
		all := dumps()
		if len(all) == had {
			return false
		}
		n = len(goroutine.FindAllString(all[len(all)-1], -1))
		return n > 0
	})
	return n
}
