package e2e

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/test/root"
)

// TestSystemdCgroup runs containers with the systemd cgroup driver, as the kubelet's nodes do, under both shims: the
// scope, its limits, an update of them, what is observed, and that nothing stays.
func TestSystemdCgroup(t *testing.T) {
	root.Test(t)
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd is not this machine's init: make test-vm runs this in a machine where it is")
	}
	h := newHost(t)
	driver := &options.Options{SystemdCgroup: true}
	t.Run("path", func(t *testing.T) {
		look := func(runtime string) string {
			o := h.runSpecWith(t, runtime, driver, func(s spec) { s.at("linux")["cgroupsPath"] = "/a/b" }, "true")
			if o.err == nil {
				t.Errorf("%s takes a path that is not one of the systemd driver", runtime)
				return ""
			}
			return withoutIDs(o.err.Error(), o.id)
		}
		look(stock)
		look(forefend)
	})
	t.Run("scope", func(t *testing.T) { scopeIsAlike(t, h, driver) })
}

// scoped is what is seen of one container with the systemd driver.
type scoped struct {
	group           string
	before, after   []string
	settings, later map[string]string
}

func scopeIsAlike(t *testing.T, h *host, driver *options.Options) {
	look := func(runtime string) (r scoped) {
		name := h.newID("scope")
		c, err := h.createWith(t, runtime, driver, func(s spec) {
			s.at("linux")["cgroupsPath"] = "system.slice:fftest:" + name
			s.at("linux", "resources")["memory"] = map[string]any{"limit": 128 << 20}
			s.at("linux", "resources")["pids"] = map[string]any{"limit": 77}
			s.at("linux", "resources")["cpu"] = map[string]any{"quota": 50000, "period": 100000}
		}, "sh", "-c", ": "+runtime+"; dd if=/dev/zero of=/dev/null bs=60M count=1 2>/dev/null; sleep 1000")
		if err != nil {
			t.Fatal(err)
		}
		ctx := h.context(t)
		task, err := c.NewTask(ctx, cio.NullIO)
		if err != nil {
			t.Fatalf("%s: %v", runtime, err)
		}
		unit := "fftest-" + name + ".scope"
		group, _ := cgroupOf(t, int(task.Pid()), "memory")
		r.group = withoutIDs(group, name)
		r.settings = settings(t, int(task.Pid()))
		r.before = properties(t, unit)
		if err := task.Start(ctx); err != nil {
			t.Fatal(err)
		}
		limit, pids := int64(96<<20), int64(66)
		if err := task.Update(ctx, client.WithResources(&specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids},
		})); err != nil {
			t.Errorf("%s: update: %v", runtime, err)
		}
		r.after, r.later = properties(t, unit), settings(t, int(task.Pid()))
		if res := h.exec(c.ID(), "true"); res.Code != 0 {
			t.Errorf("%s: exec: %v", runtime, res.Check())
		}
		if runtime == forefend {
			eventually(t, "the usage of the scope", func() bool { return h.row(t, c.ID()).Usage.MemoryPeak > 60<<20 })
			if limits := h.row(t, c.ID()).Limits; limits.Memory != limit || limits.PIDs != pids {
				t.Errorf("ps: %+v", limits)
			}
		}
		if _, err := task.Delete(ctx, client.WithProcessKill); err != nil {
			t.Errorf("%s: delete: %v", runtime, err)
		}
		eventually(t, "the scope is gone", func() bool { return slices.Contains(properties(t, unit), "ActiveState=inactive") })
		if runtime == forefend {
			if _, runs := h.history(t, ": "+runtime); len(runs) != 1 || !runs[0].Final || runs[0].Usage.MemoryPeak < 60<<20 {
				t.Errorf("kept as %+v", runs)
			}
		}
		return r
	}
	want, got := look(stock), look(forefend)
	if got.group != want.group || !strings.HasSuffix(want.group, "/system.slice/fftest-ID.scope") {
		t.Errorf("cgroup %s, stock %s", got.group, want.group)
	}
	if !slices.Equal(got.before, want.before) || !slices.Equal(got.after, want.after) || len(want.before) < 4 {
		t.Errorf("unit %q and %q\nstock %q and %q", got.before, got.after, want.before, want.after)
	}
	if slices.Equal(want.before, want.after) {
		t.Error("the update did not reach the unit")
	}
	differ(t, "created", want.settings, got.settings)
	differ(t, "updated", want.later, got.later)
}

// properties are those of a unit that a container's limits become.
func properties(t *testing.T, unit string) []string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", unit, "--property=ActiveState,MemoryMax,TasksMax,CPUQuotaPerSecUSec,Slice,Delegate").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
