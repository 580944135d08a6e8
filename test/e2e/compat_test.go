package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestCompatibility runs what people run: every container works as under the stock shim.
func TestCompatibility(t *testing.T) {
	h := newHost(t)
	t.Run("flags", func(t *testing.T) { flagsWork(t, h) })
	t.Run("user namespace", func(t *testing.T) { userNamespace(t, h) })
	t.Run("process", func(t *testing.T) { processIsAsAsked(t, h) })
	t.Run("spec", func(t *testing.T) { specIsAsAsked(t, h) })
	t.Run("unknown fields", func(t *testing.T) { unknownFieldsSurvive(t, h) })
	t.Run("privileged", func(t *testing.T) { privilegedIsAsAsked(t, h) })
	t.Run("given profile", func(t *testing.T) { givenProfileIsNeverWider(t, h) })
	t.Run("default profile of containerd", func(t *testing.T) { defaultProfileIsNeverWider(t, h) })
}

// sameAsStock runs c under both shims and compares everything.
func (h *host) sameAsStock(t *testing.T, c container) string {
	t.Helper()
	c = c.named("same")
	want, got := h.run(c.under(stock)), h.run(c)
	// On a busy machine containerd's client loses the output of a short container, and collects the snapshot that
	// --remap-labels is about to use, under either runtime. A difference of ours shows every time.
	for try := 1; try < 3 && (got.Code != want.Code || got.Stdout != want.Stdout); try++ {
		t.Logf("once more: got %d %q %q, stock %d %q %q", got.Code, short(got.Stdout), short(got.Stderr), want.Code, short(want.Stdout), short(want.Stderr))
		want, got = h.run(c.under(stock)), h.run(c)
	}
	if got.Code != want.Code || got.Stdout != want.Stdout || comparable(got.Stderr) != comparable(want.Stderr) {
		t.Errorf("got   %d %q %q\nstock %d %q %q", got.Code, short(got.Stdout), short(got.Stderr), want.Code, short(want.Stdout), short(want.Stderr))
	}
	return got.Stdout
}

func flagsWork(t *testing.T, h *host) {
	for name, test := range map[string]struct {
		c    container
		want string
	}{
		"uid 1000":        {sh("id -u; id -g; touch /etc/x 2>/dev/null || echo cannot", "--user=1000"), "1000\n1000\ncannot\n"},
		"uid and gid":     {sh("id -u; id -g", "--user=1000:1000"), "1000\n1000\n"},
		"user by name":    {sh("id -un", "--user=user"), "user\n"},
		"read-only root":  {sh("touch /x 2>&1 || echo kept; echo y > /dev/shm/y && cat /dev/shm/y", "--read-only"), "kept"},
		"scratch image":   {probe("cat", "/proc/sys/kernel/ostype"), "Linux\n"},
		"no shell, uid":   {probe("env").with("--user=65534:65534", "--env=A=b"), "A=b"},
		"cap-add":         {sh("grep CapEff /proc/self/status", "--cap-add=CAP_NET_ADMIN", "--cap-add=CAP_SYS_TIME"), "CapEff"},
		"cap-drop":        {sh("grep CapEff /proc/self/status; chown 1 /home || echo cannot", "--cap-drop=CAP_CHOWN"), "cannot"},
		"net-host":        {sh("readlink /proc/self/ns/net; grep -c : /proc/net/dev", "--net-host"), hostNamespace(t, "net")},
		"host pid":        {sh("readlink /proc/self/ns/pid", fmt.Sprintf("--with-ns=pid:/proc/%d/ns/pid", os.Getpid())), hostNamespace(t, "pid")},
		"cwd and env":     {sh("pwd; echo $X-$PATH", "--cwd=/home", "--env=X=y"), "/home\ny-/"},
		"hostname":        {sh("hostname", "--hostname=other"), "other\n"},
		"nofile":          {sh("ulimit -n; ulimit -Hn", "--rlimit-nofile=500:600"), "500\n600\n"},
		"allow-new-privs": {sh("grep NoNewPrivs /proc/self/status", "--allow-new-privs"), "NoNewPrivs:\t0\n"},
		"bind mount":      {sh("/probe exit 3", h.withProbe()), ""},
		"device":          {sh("head -c 4 /dev/full | wc -c; stat -c %t:%T /dev/kmsg", "--device=/dev/kmsg"), "4\n1:b\n"},
		"many children":   {sh("for i in $(seq 200); do /bin/true; done; echo done"), "done\n"},
		"threads":         {probe("spin", "50ms", "4"), ""},
		"loopback":        {sh("(echo hello | nc -l -p 7000 &); sleep 0.3; nc 127.0.0.1 7000 </dev/null"), "hello\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if out := h.sameAsStock(t, test.c); !strings.Contains(out, test.want) {
				t.Errorf("output %q, want %q", out, test.want)
			}
		})
	}
}

// hostNamespace is that of an ordinary thread: the main one stays in another when a test that entered it ends there.
func hostNamespace(t *testing.T, kind string) string {
	t.Helper()
	link, err := os.Readlink("/proc/thread-self/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func userNamespace(t *testing.T, h *host) {
	if err := os.Chmod(h.Dir, 0o711); err != nil { // the mapped root has to get to its root filesystem
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--remap-labels"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			c := sh("cat /proc/self/uid_map; id -u; touch /tmp/x && stat -c %u /tmp/x; mount -t tmpfs none /tmp 2>&1 || echo no mount",
				append(flags, "--uidmap=0:100000:65536", "--gidmap=0:100000:65536")...)
			if r := h.run(c.under(stock)); r.Code != 0 {
				t.Skipf("the stock shim cannot either: %v", r.Check())
			}
			if out := h.sameAsStock(t, c); !strings.Contains(out, "100000") {
				t.Errorf("output %q", out)
			}
			c.args = []string{"sh", "-c", "grep ^Seccomp: /proc/self/status; /probe attack keyctl"}
			if out := h.mustRun(t, c.with(h.withProbe())); out != "Seccomp:\t2\nkeyctl: EPERM\n" {
				t.Errorf("output %q", out)
			}
		})
	}
}

// changing is what differs between two runs of the same container under one shim.
var changing = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^(Pid|Tgid|Ngid|PPid|NSpid|NStgid|NSpgid|NSsid|Vm\w+|Rss\w+|HugetlbPages|voluntary_ctxt_switches|nonvoluntary_ctxt_switches|Cpus_allowed\w*|Mems_allowed\w*|FDSize|Threads|SigQ|Seccomp\w*|Speculation_Store_Bypass|SpeculationIndirectBranch)(:| ).*\n`),
	regexp.MustCompile(`(?m)^overlay / .*$`),
}

func stable(s string) string {
	for _, r := range changing {
		s = r.ReplaceAllString(s, "")
	}
	return s
}

// processIsAsAsked compares what a process sees of itself. Only its seccomp filter is Forefend's.
func processIsAsAsked(t *testing.T, h *host) {
	c := sh("cat /proc/self/status /proc/self/limits /proc/self/mounts /proc/self/uid_map; env | sort; pwd; id; ls /proc/self/fd | wc -l; ls -l /dev | cut -c1-10; cat /proc/self/oom_score_adj; umask").named("same")
	want, got := h.run(c.under(stock)), h.run(c)
	if stable(got.Stdout) != stable(want.Stdout) || !strings.Contains(want.Stdout, "Max open files") {
		t.Errorf("%s", difference(stable(want.Stdout), stable(got.Stdout)))
	}
	if !strings.Contains(got.Stdout, "Seccomp:\t2") {
		t.Error("no seccomp filter")
	}
}

// difference lists the lines that only one of two texts has.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// specIsAsAsked uses parts of the spec that ctr has no flag for.
func specIsAsAsked(t *testing.T, h *host) {
	edit := func(s spec) {
		s.at("linux", "sysctl")["net.ipv4.ip_unprivileged_port_start"] = "77"
		s.at("process")["rlimits"] = []any{map[string]any{"type": "RLIMIT_CORE", "soft": 0, "hard": 1000}, map[string]any{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 199}}
		s.at("process")["oomScoreAdj"] = 500
		s.at("process")["user"] = map[string]any{"uid": 1000, "gid": 1000, "additionalGids": []any{7, 8}, "umask": 0o27}
		s["mounts"] = append(s["mounts"].([]any), map[string]any{"destination": "/mnt/t", "type": "tmpfs", "source": "tmpfs", "options": []any{"size=123k", "ro"}})
		s.at("linux")["readonlyPaths"] = []any{"/proc/sys"}
		s["domainname"] = "example.org"
	}
	args := []string{"sh", "-c", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/limits /proc/self/oom_score_adj /proc/sys/kernel/domainname; id; umask; grep /mnt/t /proc/mounts; mkdir /tmp/d && stat -c %a /tmp/d"}
	want, got := h.runSpec(t, stock, edit, args...), h.runSpec(t, forefend, edit, args...)
	if want.err != nil || got.err != nil || got.output != want.output || got.code != want.code || !strings.Contains(want.output, "77\n") {
		t.Errorf("stock %d %v, forefend %d %v\n%s", want.code, want.err, got.code, got.err, difference(want.output, got.output))
	}
}

// unknownFieldsSurvive: a spec of a later version reaches runc with all it says.
func unknownFieldsSurvive(t *testing.T, h *host) {
	edit := func(s spec) {
		s["x-unknown"] = map[string]any{"kept": []any{1, "two", 3.5}}
		s.at("process")["x-unknown"] = "process"
		s.at("linux", "resources")["x-unknown"] = map[string]any{"deep": true}
		s.at("annotations")["forefend.dev/pids"] = "77"
	}
	c, err := h.create(t, forefend, edit, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Ctr("task", "start", "-d", c.ID()).Check(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("%s/state/io.containerd.runtime.v2.task/%s/%s/config.json", h.Dir, h.Namespace, c.ID()))
	if err != nil {
		t.Fatal(err)
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(s.at("x-unknown")["kept"]) != "[1 two 3.5]" || s.at("process")["x-unknown"] != "process" || s.at("linux", "resources", "x-unknown")["deep"] != true {
		t.Errorf("unknown fields are lost: %s", short(string(text)))
	}
	if s.at("linux", "resources", "pids")["limit"] != 77.0 {
		t.Errorf("the policy is not in the spec: %v", s.at("linux", "resources", "pids"))
	}
	if s.at("linux", "seccomp")["listenerPath"] == nil {
		t.Error("no listener in the spec")
	}
}

func privilegedIsAsAsked(t *testing.T, h *host) {
	c := sh("grep -e ^Cap -e ^NoNew -e ^Seccomp /proc/self/status; cat /proc/self/attr/current 2>/dev/null; mount -t tmpfs none /tmp && echo mounted; ls /dev | wc -l; sleep ${S:-0}", "--privileged")
	out := h.sameAsStock(t, c)
	if !strings.Contains(out, "Seccomp:\t0") || !strings.Contains(out, "mounted") {
		t.Errorf("output %q", out)
	}
	id := h.start(t, c.with("--env=S=1000"))
	notes := strings.Join(h.explain(t, id).Notes, "\n")
	if !strings.Contains(notes, "privileged") || !strings.Contains(h.Forefend("explain", id).Stdout, "privileged") {
		t.Errorf("explain does not say so: %q", notes)
	}
	if r := h.exec(id, "sh", "-c", "mount -t tmpfs none /home && echo mounted"); r.Stdout != "mounted\n" {
		t.Errorf("exec: %q %q", r.Stdout, r.Stderr)
	}
}

// neverWider runs every attack under a profile with all capabilities: what the stock shim refuses, Forefend refuses.
// It returns Forefend's verdicts.
func neverWider(t *testing.T, h *host, flags ...string) (stockSays, forefendSays map[string]string) {
	t.Helper()
	c := sh("/probe attack --json "+strings.Join(attacks, " "), append([]string{h.withProbe(), "--seccomp"}, flags...)...)
	stockSays, forefendSays = h.verdicts(t, c.under(stock)), h.verdicts(t, c)
	for name, result := range forefendSays {
		// A verdict other than the filter's is the kernel's own: the call went through.
		refused := func(r string) bool { return r == "EPERM" || r == "ENOSYS" || strings.HasPrefix(r, "killed") }
		if refused(stockSays[name]) && !refused(result) {
			t.Errorf("%s: %s, stock says %s", name, result, stockSays[name])
		}
	}
	if len(stockSays) != len(attacks) || len(forefendSays) != len(attacks) {
		t.Errorf("%d and %d verdicts of %d", len(stockSays), len(forefendSays), len(attacks))
	}
	return stockSays, forefendSays
}

var powers = []string{"--cap-add=CAP_SYS_ADMIN", "--cap-add=CAP_SYS_PTRACE", "--cap-add=CAP_BPF", "--cap-add=CAP_PERFMON", "--cap-add=CAP_SYS_PACCT", "--cap-add=CAP_SYSLOG"}

func givenProfileIsNeverWider(t *testing.T, h *host) {
	profile := h.file(t, "profile.json", `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": [
		{"names": ["ptrace", "keyctl", "chroot", "sethostname", "bpf"], "action": "SCMP_ACT_ERRNO"},
		{"names": ["acct"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
		{"names": ["kcmp"], "action": "SCMP_ACT_KILL_PROCESS"},
		{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 262144, "op": "SCMP_CMP_EQ"}]},
		{"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 131072, "valueTwo": 131072, "op": "SCMP_CMP_MASKED_EQ"}]}]}`)
	flags := append(slices.Clone(powers), "--seccomp-profile="+profile)
	want, got := neverWider(t, h, flags...)
	for _, name := range []string{"ptrace", "keyctl", "chroot", "sethostname", "bpf", "acct", "kcmp", "personality", "unshare"} {
		if got[name] != want[name] || want[name] == "ok" {
			t.Errorf("%s: %s, stock %s", name, got[name], want[name])
		}
	}
	id := h.newID("widen") // nobody may widen a profile, whatever else is granted
	c := sh("/probe attack --json ptrace", append(flags, h.withProbe(), "--seccomp", annotate("syscalls.allow", "ptrace"))...)
	if v := h.verdicts(t, c.named(id)); v["ptrace"] == "ok" {
		t.Errorf("an annotation widens the profile")
	}
	if f, _ := h.explain(t, id).find("syscalls/ptrace"); f.Author != "guardrail" || !strings.Contains(f.Source, "requested seccomp profile") {
		t.Errorf("explain: %+v", f)
	}
}

func defaultProfileIsNeverWider(t *testing.T, h *host) {
	want, got := neverWider(t, h)
	for _, name := range []string{"setuid", "setgid", "chroot", "socket_netlink", "socket_raw", "mknod"} { // ordinary programs make these
		if got[name] != want[name] {
			t.Errorf("%s: %s, stock %s", name, got[name], want[name])
		}
	}
	neverWider(t, h, powers...)
}
