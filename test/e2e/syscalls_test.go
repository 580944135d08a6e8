package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/policy"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

// shimOf connects to the service by which a running container is changed.
func (h *host) shimOf(t testing.TB, id string) *api.AdapterClient {
	t.Helper()
	kept := h.kept(t, id)
	text, err := os.ReadFile(filepath.Join(kept.Bundle, "bootstrap.json"))
	var params struct{ Address string }
	if err == nil {
		err = json.Unmarshal(text, &params)
	}
	if err != nil {
		t.Fatal(err)
	}
	shim, err := api.DialAdapter(t.Context(), params.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shim.Close() })
	return shim
}

func (h *host) kept(t testing.TB, id string) record.Record {
	t.Helper()
	kept, err := record.Dir(h.state("c")).Read(workload.ID{Namespace: h.Namespace, Container: id})
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// put puts other verdicts in force, as one change.
func put(t testing.TB, shim *api.AdapterClient, before api.Decision, v policy.Value, names ...string) api.AdaptResponse {
	t.Helper()
	slices.Sort(names)
	after := before
	after.Revision++
	after.Effective = before.Effective.Put(policy.Field{
		Key: policy.KeySyscalls, Names: names, Value: v, Origin: policy.Origin{Author: policy.Operator, Source: "test"},
	})
	r, err := shim.Adapt(t.Context(), api.AdaptRequest{
		Version: api.Version, ID: before.Facts.ID, Run: before.Facts.Run, Before: before.Revision, After: after,
	})
	if err != nil || r.Stale {
		t.Fatalf("adapt: %v %+v", err, r)
	}
	return r
}

// TestCallsLive forbids and allows calls of a running container.
func TestCallsLive(t *testing.T) {
	h := newHost(t)
	id := h.start(t, sh("sleep 1000", h.withProbe()))
	shim := h.shimOf(t, id)
	d := *h.kept(t, id).Decision
	mkdir := func(want string) {
		t.Helper()
		if r := h.exec(id, "/probe", "sys", "mkdir", "/tmp/x"); r.Stdout != "mkdir: "+want+"\n" {
			t.Errorf("mkdir: %q %q, want %s", r.Stdout, r.Stderr, want)
		}
	}
	mkdir("ok")
	d = put(t, shim, d, policy.SyscallDeny, "mkdir").Decision
	mkdir("EPERM")
	if kept := h.kept(t, id).Decision; kept.Revision != 2 || kept.Effective.Value("syscalls/mkdir", 9) != policy.SyscallDeny {
		t.Errorf("on disk: revision %d, mkdir %d", kept.Revision, kept.Effective.Value("syscalls/mkdir", 9))
	}
	d = put(t, shim, d, policy.SyscallWatch, "mkdir").Decision
	mkdir("EEXIST")
	t.Run("native", func(t *testing.T) {
		r := put(t, shim, d, policy.SyscallDeny, "getrandom", "mkdir")
		if d = r.Decision; len(r.Results) != 1 || r.Results[0].Status != api.ResultRefused || !strings.Contains(r.Results[0].Reason, "getrandom") {
			t.Errorf("%+v", r.Results)
		}
		mkdir("EEXIST")
	})
	t.Run("beyond the default", func(t *testing.T) { // nobody requested a profile, so its denials are Forefend's own
		keyctl := []string{"/probe", "attack", "keyctl"}
		if r := h.exec(id, keyctl...); r.Stdout != "keyctl: EPERM\n" {
			t.Errorf("%q", r.Stdout)
		}
		d = put(t, shim, d, policy.SyscallWatch, "keyctl").Decision
		if r := h.exec(id, keyctl...); r.Stdout != "keyctl: ok\n" {
			t.Errorf("%q", r.Stdout)
		}
		d = put(t, shim, d, policy.SyscallDeny, "keyctl").Decision
	})
	t.Run("requested profile", func(t *testing.T) {
		id := h.start(t, sh("sleep 1000", h.withProbe(), "--seccomp"))
		r := put(t, h.shimOf(t, id), *h.kept(t, id).Decision, policy.SyscallWatch, "keyctl")
		if len(r.Results) != 1 || r.Results[0].Status != api.ResultRefused || !strings.Contains(r.Results[0].Reason, "profile that the container was created with") {
			t.Errorf("%+v", r.Results)
		}
		if r := h.exec(id, "/probe", "attack", "keyctl"); r.Stdout != "keyctl: EPERM\n" {
			t.Errorf("%q", r.Stdout)
		}
	})
	t.Run("at the next call", func(t *testing.T) { flipsInTime(t, h, id, shim, d) })
}

// flipsInTime measures from the acknowledgement of a change to the begin of the last call that does not obey it. When the
// next one begins is the scheduler's business.
func flipsInTime(t *testing.T, h *host, id string, shim *api.AdapterClient, d api.Decision) {
	const changes = 100
	cmd := h.CtrCommand(t.Context(), "task", "exec", "--exec-id", "flips", id, "/probe", "flips", "mkdir", "60s")
	file, err := os.Create(filepath.Join(h.Dir, "flips"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout = file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := func() []string {
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
	eventually(t, "the loop starts", func() bool { return seen()[0] != "" })
	var acknowledged []time.Time
	for i := range changes {
		d = put(t, shim, d, []policy.Value{policy.SyscallDeny, policy.SyscallWatch}[i%2], "mkdir").Decision
		acknowledged = append(acknowledged, time.Now())
		eventually(t, "the change is seen", func() bool { return len(seen()) > i+1 })
	}
	if err := h.Ctr("task", "kill", "-s", "SIGKILL", "--exec-id", "flips", id).Check(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()      // killed
	lines := seen()[1:] // the first is how it began
	if len(lines) != changes {
		t.Fatalf("%d changes were seen, %d made", len(lines), changes)
	}
	var late []time.Duration
	for i, line := range lines {
		at, _, _ := strings.Cut(line, " ")
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		late = append(late, time.Unix(0, n).Sub(acknowledged[i]))
	}
	slices.Sort(late)
	t.Logf("from the acknowledgement to the begin of the last call that did not obey: median %v, p99 %v, n %d (negative: before it)", late[changes/2], late[changes*99/100], changes)
	if p99 := late[changes*99/100]; p99 > time.Millisecond {
		t.Errorf("p99 %v, the most is 1ms", p99)
	}
}
