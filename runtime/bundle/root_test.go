package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/rewrite"
	"forefend.dev/forefend/test/root"
)

// runc calls the real runc on one container of a private state directory.
type runc struct {
	t    *testing.T
	root string
	id   string
}

func newRunc(t *testing.T) *runc {
	t.Helper()
	root.Test(t)
	r := &runc{t: t, root: t.TempDir(), id: fmt.Sprintf("ff-rewrite-%d", os.Getpid())}
	t.Cleanup(func() { _, _ = r.call(nil, "delete", "--force", r.id) })
	return r
}

func (r *runc) call(stdin io.Reader, args ...string) (string, error) {
	path, err := filepath.Abs("../../bin/runc")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, append([]string{"--root", r.root, "--log", filepath.Join(r.root, "log")}, args...)...)
	cmd.Stdin = stdin
	// The container outlives a detached run: with a pipe, Wait would wait for it too.
	out, err := os.CreateTemp(r.root, "out-*")
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(out.Name())
	return string(text), err
}

func (r *runc) must(stdin io.Reader, args ...string) string {
	r.t.Helper()
	out, err := r.call(stdin, args...)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(r.root, "log"))
		r.t.Fatalf("runc %v: %v\n%s%s", args, err, out, log)
	}
	return out
}

// busybox makes a bundle of the static busybox and a spec of containerd.
func busybox(t *testing.T) string {
	t.Helper()
	s := parse(t, corpus(t)["ctr-default"])
	s.Process.Args = []string{"/bin/busybox", "sleep", "3600"}
	s.Linux.CgroupsPath = fmt.Sprintf("/forefend-rewrite-test-%d", os.Getpid())
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := newBundle(t, raw)
	bin := filepath.Join(dir, s.Root.Path, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is missing (make setup): %v", err)
	}
	for _, name := range []string{"busybox", "cat", "sh"} {
		if err := os.WriteFile(filepath.Join(bin, name), program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// decide merges claims of the spec with an operator's.
func decide(t *testing.T, s *specs.Spec, unified bool, values map[policy.Key]string) policy.Effective {
	t.Helper()
	claims := rewrite.Claims(s, unified)
	for k, text := range values {
		v, err := k.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, policy.Claim{Key: k, Value: v, Origin: policy.Origin{Author: policy.Operator, Source: "test"}})
	}
	return policy.Merge(policy.Input{Claims: claims})
}

// file reads one file of the container's cgroup. v1 and v2 name each differently.
func (r *runc) file(controller, v1, v2 string) string {
	r.t.Helper()
	name := fmt.Sprintf("forefend-rewrite-test-%d", os.Getpid())
	path := filepath.Join("/sys/fs/cgroup", name, v2)
	if !cgroups.IsCgroup2UnifiedMode() {
		path = filepath.Join("/sys/fs/cgroup", controller, name, v1)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// TestRuncRunsTheRewritten: real runc runs a rewritten bundle, and the kernel holds
// what the policy says.
func TestRuncRunsTheRewritten(t *testing.T) {
	r := newRunc(t)
	dir := busybox(t)
	unified := cgroups.IsCgroup2UnifiedMode()
	b := load(t, dir)
	eff := decide(t, b.Spec(), unified, map[policy.Key]string{
		policy.KeyMemory: "64Mi", policy.KeyMemorySoft: "32Mi", policy.KeyCPUs: "0.5", policy.KeyCPUShares: "512", policy.KeyPIDs: "33",
		policy.KeyNoNewPrivileges: "off", policy.KeyReadonlyRoot: "on", policy.KeyNetwork: "off",
		"capabilities/CAP_NET_RAW": "dropped", "capabilities/CAP_SYS_PTRACE": "kept", "rlimits/RLIMIT_NOFILE": "99",
		"masked_paths//bin/cat": "masked", "readonly_paths//proc/sysrq-trigger": "readonly",
	})
	if err := rewrite.Apply(b.Spec(), rewrite.Input{Effective: eff, Unified: unified}); err != nil {
		t.Fatal(err)
	}
	if err := Check(b.Spec(), CheckOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	r.must(nil, "run", "--detach", "--bundle", dir, r.id)

	for what, c := range map[string]struct{ got, v1, v2 string }{
		"memory":      {r.file("memory", "memory.limit_in_bytes", "memory.max"), "67108864", "67108864"},
		"memory.soft": {r.file("memory", "memory.soft_limit_in_bytes", "memory.high"), "33554432", "33554432"},
		"cpu quota":   {r.file("cpu", "cpu.cfs_quota_us", "cpu.max"), "50000", "50000 100000"},
		"pids":        {r.file("pids", "pids.max", "pids.max"), "33", "33"},
	} {
		if want := map[bool]string{false: c.v1, true: c.v2}[unified]; c.got != want {
			t.Errorf("%s is %s, want %s", what, c.got, want)
		}
	}
	r.checkInside()
	r.checkExec(b.Spec(), eff)
	r.checkUpdate(b.Spec(), unified)
}

// checkInside looks at PID 1 as the kernel sees it.
func (r *runc) checkInside() {
	r.t.Helper()
	status := r.must(nil, "exec", r.id, "/bin/busybox", "cat", "/proc/1/status")
	// containerd's 14 without CAP_NET_RAW (13), with CAP_SYS_PTRACE (19).
	for _, want := range []string{"CapBnd:\t00000000a80c05fb", "NoNewPrivs:\t0"} {
		if !strings.Contains(status, want) {
			r.t.Errorf("%q is not in\n%s", want, status)
		}
	}
	limits := r.must(nil, "exec", r.id, "/bin/busybox", "cat", "/proc/1/limits")
	if !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max open files 99 99") {
		r.t.Errorf("limits: %s", limits)
	}
	if out, err := r.call(nil, "exec", r.id, "/bin/busybox", "touch", "/x"); err == nil || !strings.Contains(out, "Read-only") {
		r.t.Errorf("the root is writable: %s, %v", out, err)
	}
	if out := r.must(nil, "exec", r.id, "/bin/busybox", "wc", "-c", "/bin/cat"); !strings.HasPrefix(out, "0 ") {
		r.t.Errorf("a masked file has content: %s", out)
	}
	if out := r.must(nil, "exec", r.id, "/bin/busybox", "ls", "/proc/1/net/dev_snmp6"); strings.TrimSpace(out) != "lo" {
		r.t.Errorf("network devices: %s", out)
	}
}

// checkExec runs a process that asks for more than its container has.
func (r *runc) checkExec(container *specs.Spec, eff policy.Effective) {
	r.t.Helper()
	raw := `{"cwd":"/","user":{"uid":0,"gid":0},"args":["/bin/busybox","cat","/proc/self/status"],"future":1,
		"capabilities":{"bounding":["CAP_KILL","CAP_NET_RAW","CAP_SYS_ADMIN"],"effective":["CAP_SYS_ADMIN"],"permitted":["CAP_SYS_ADMIN"]},
		"rlimits":[{"type":"RLIMIT_NOFILE","hard":100000,"soft":100000}]}`
	clipped, notes, err := rewrite.ProcessJSON([]byte(raw), container, eff)
	if err != nil || len(notes) != 2 {
		r.t.Fatalf("%q, %v", notes, err)
	}
	file := filepath.Join(r.root, "process.json")
	if err := os.WriteFile(file, clipped, 0o600); err != nil {
		r.t.Fatal(err)
	}
	out := r.must(nil, "exec", "--process", file, r.id)
	// CAP_KILL (5) is what both have; execve gives root its bounding set.
	if !strings.Contains(out, "CapBnd:\t0000000000000020") || !strings.Contains(out, "CapEff:\t0000000000000020") {
		r.t.Errorf("an exec has more than its container: %s", out)
	}
}

// checkUpdate changes the limits of the running container.
func (r *runc) checkUpdate(container *specs.Spec, unified bool) {
	r.t.Helper()
	eff := decide(r.t, container, unified, map[policy.Key]string{
		policy.KeyMemory: "128Mi", policy.KeyMemorySoft: "unlimited", policy.KeyCPUs: "7m", policy.KeyPIDs: "unlimited"})
	body, err := json.Marshal(rewrite.Resources(nil, eff, unified))
	if err != nil {
		r.t.Fatal(err)
	}
	r.must(bytes.NewReader(body), "update", "--resources", "-", r.id)
	if got := r.file("memory", "memory.limit_in_bytes", "memory.max"); got != "134217728" {
		r.t.Errorf("memory is %s", got)
	}
	if got := r.file("pids", "pids.max", "pids.max"); got != "max" {
		r.t.Errorf("pids is %s", got)
	}
	if got := r.file("cpu", "cpu.cfs_quota_us", "cpu.max"); got != "1000" && got != "1000 142858" {
		r.t.Errorf("cpu quota is %s", got)
	}
}
