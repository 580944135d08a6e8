package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestCgroup compares what a container's cgroup is set to, and what the container sees of it, under both shims. The same
// tests run on cgroup v1 and, in the virtual machine, on v2.
func TestCgroup(t *testing.T) {
	h := newHost(t)
	t.Run("settings", func(t *testing.T) { cgroupIsSetAlike(t, h) })
	t.Run("view", func(t *testing.T) { cgroupLooksAlike(t, h) })
	t.Run("nested", func(t *testing.T) { nestedCgroupsWork(t, h) })
}

// asked are resources that a client may ask for, by what they are about, and an update of them.
func asked(t *testing.T) map[string][2]string {
	all := map[string][2]string{
		"nothing": {`{}`, `{"pids": {"limit": 99}}`},
		"memory":  {`{"memory": {"limit": 134217728, "reservation": 67108864}}`, `{"memory": {"limit": 100663296, "reservation": 33554432}}`},
		"cpu": {`{"cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"}}`,
			`{"cpu": {"shares": 256, "quota": 25000, "period": 50000}}`},
		"pids": {`{"pids": {"limit": 77}}`, `{"pids": {"limit": -1}}`},
		"unified": {`{"unified": {"memory.high": "100663296", "memory.oom.group": "1", "cpu.weight": "55", "pids.max": "66"}}`,
			`{"unified": {"memory.high": "67108864", "memory.low": "1048576"}}`},
		"contradiction": {`{"memory": {"limit": 67108864, "swap": 33554432}}`, `{}`},
	}
	if disk := blockDevice(t); disk != "" {
		throttle := func(rate int) string {
			return fmt.Sprintf(`{"blockIO": {"throttleReadBpsDevice": [{%s, "rate": %d}], "throttleWriteIOPSDevice": [{%s, "rate": 500}]}}`, disk, rate, disk)
		}
		all["io"] = [2]string{throttle(1 << 20), throttle(2 << 20)}
	}
	return all
}

// blockDevice is a whole disk of this machine, as OCI names one; "" when there is none.
func blockDevice(t *testing.T) string {
	t.Helper()
	disks, err := filepath.Glob("/sys/block/*/device")
	if err != nil || len(disks) == 0 {
		t.Log("this machine has no disk to limit the use of")
		return ""
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(disks[0]), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	return fmt.Sprintf(`"major": %s, "minor": %s`, major, minor)
}

// settings are the contents of the cgroup files that a runtime can write, of every hierarchy.
func settings(t *testing.T, pid int) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, controller := range []string{"memory", "cpu", "cpuset", "pids", "blkio", "devices", "hugetlb", ""} {
		dir, version := cgroupOf(t, pid, controller)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // not mounted, or no such hierarchy beside v1
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() || info.Mode()&0o200 == 0 && e.Name() != "devices.list" || counts(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				continue // some can only be written
			}
			all[fmt.Sprintf("v%d %s", version, e.Name())] = strings.TrimSpace(string(text))
		}
	}
	return all
}

// counts tells whether a file says what a group does, and not what it may do.
func counts(name string) bool {
	for _, part := range []string{"usage", "failcnt", "pressure", "procs", "threads", "tasks", "peak", "cgroup.freeze"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

func cgroupIsSetAlike(t *testing.T, h *host) {
	for name, resources := range asked(t) {
		t.Run(name, func(t *testing.T) {
			type result struct {
				before, after    map[string]string
				created, updated string
			}
			look := func(runtime string) (r result) {
				c, err := h.create(t, runtime, func(s spec) {
					var asked map[string]any
					if err := json.Unmarshal([]byte(resources[0]), &asked); err != nil {
						t.Fatal(err)
					}
					maps.Copy(s.at("linux", "resources"), asked)
				}, "sh", "-c", ": "+name+"; sleep 1000")
				if err != nil {
					t.Fatal(err)
				}
				ctx := h.context(t)
				task, err := c.NewTask(ctx, cio.NullIO)
				if err != nil {
					r.created = withoutIDs(err.Error(), c.ID())
					return r
				}
				r.before = settings(t, int(task.Pid()))
				var update specs.LinuxResources
				if err := json.Unmarshal([]byte(resources[1]), &update); err != nil {
					t.Fatal(err)
				}
				if err := task.Update(ctx, client.WithResources(&update)); err != nil {
					r.updated = withoutIDs(err.Error(), c.ID())
				}
				r.after = settings(t, int(task.Pid()))
				return r
			}
			want, got := look(stock), look(forefend)
			if got.created != want.created || got.updated != want.updated {
				t.Errorf("errors %q and %q, stock %q and %q", got.created, got.updated, want.created, want.updated)
			}
			if want.created == "" && len(want.before) < 10 {
				t.Errorf("only %d settings were compared", len(want.before))
			}
			differ(t, "created", want.before, got.before)
			differ(t, "updated", want.after, got.after)
		})
	}
}

func differ(t *testing.T, when string, want, got map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s: %s is %q, stock %q", when, name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d settings, stock %d", when, len(got), len(want))
	}
}

func withoutIDs(s string, ids ...string) string {
	for _, id := range ids {
		s = strings.ReplaceAll(s, id, "ID")
	}
	return s
}

// cgroupLooksAlike compares what is seen from inside, with a cgroup namespace, without one, and with the file system
// mounted writable.
func cgroupLooksAlike(t *testing.T, h *host) {
	const look = "cat /proc/self/cgroup; ls /sys/fs/cgroup | sort; grep -c cgroup /proc/self/mountinfo; " +
		"grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f4,6; mkdir /sys/fs/cgroup/x 2>&1 && rmdir /sys/fs/cgroup/x"
	for name, edit := range map[string]func(spec){
		"default": func(spec) {},
		"private": func(s spec) { cgroupNamespace(s, true) },
		"host":    func(s spec) { cgroupNamespace(s, false) },
		"writable": func(s spec) {
			cgroupNamespace(s, true)
			writableCgroup(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			look := func(runtime string) outcome {
				o := h.runSpec(t, runtime, edit, "sh", "-c", look)
				o.output = withoutIDs(o.output, o.id)
				return o
			}
			want, got := look(stock), look(forefend)
			if got.output != want.output || got.code != want.code || (got.err == nil) != (want.err == nil) {
				t.Errorf("got   %d %q %v\nstock %d %q %v", got.code, got.output, got.err, want.code, want.output, want.err)
			}
			if want.err == nil && !strings.Contains(want.output, "::") {
				t.Errorf("nothing was compared: %q", want.output)
			}
		})
	}
}

// cgroupNamespace gives the container a cgroup namespace of its own and the cgroup file system, or neither.
func cgroupNamespace(s spec, own bool) {
	isCgroup := func(v any) bool { return v.(map[string]any)["type"] == "cgroup" }
	namespaces, _ := s.at("linux")["namespaces"].([]any)
	namespaces = slices.DeleteFunc(namespaces, isCgroup)
	mounts, _ := s["mounts"].([]any)
	mounts = slices.DeleteFunc(mounts, isCgroup)
	if own {
		namespaces = append(namespaces, map[string]any{"type": "cgroup"})
	}
	mounts = append(mounts, map[string]any{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
		"options": []any{"ro", "nosuid", "noexec", "nodev"}})
	s.at("linux")["namespaces"], s["mounts"] = namespaces, mounts
}

func writableCgroup(s spec) {
	for _, v := range s["mounts"].([]any) {
		if m := v.(map[string]any); m["type"] == "cgroup" {
			m["options"] = []any{"rw", "nosuid", "noexec", "nodev"}
		}
	}
}

// nestedCgroupsWork runs a container that, as an init system or another container engine does, makes groups of its own
// and moves its processes there. Such a container's own group may then hold no process (cgroup v2): exec has to go
// elsewhere, and what was used is read from the outer group all the same.
func nestedCgroupsWork(t *testing.T, h *host) {
	if _, version := cgroupOf(t, os.Getpid(), "memory"); version == 1 {
		t.Skip("only cgroup v2 has the rule that this is about")
	}
	edit := func(s spec) {
		cgroupNamespace(s, true)
		writableCgroup(s)
	}
	const script = "mkdir /sys/fs/cgroup/inner /sys/fs/cgroup/other && echo $$ > /sys/fs/cgroup/inner/cgroup.procs && " +
		"echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control && cat /sys/fs/cgroup/inner/cgroup.controllers && " +
		"echo 33554432 > /sys/fs/cgroup/other/memory.max && dd if=/dev/zero of=/dev/null bs=60M count=1 2>/dev/null; " +
		"echo ready > /ready; exec sleep 1000"
	inside := func(runtime string) string {
		c, err := h.create(t, runtime, edit, "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		ctx := h.context(t)
		task := h.createTask(t, c)
		if err := task.Start(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the container has made its groups", func() bool { return h.exec(c.ID(), "cat", "/ready").Code == 0 })
		r := h.exec(c.ID(), "cat", "/proc/self/cgroup", "/sys/fs/cgroup/inner/cgroup.controllers")
		m, err := task.Metrics(ctx)
		if err != nil || m.Data == nil || len(m.Data.Value) == 0 || m.Data.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
			t.Errorf("%s: metrics %v, %v", runtime, m, err)
		}
		if runtime == forefend {
			eventually(t, "the usage of the inner group", func() bool { return h.row(t, c.ID()).Usage.MemoryPeak > 60<<20 })
		}
		if _, err := task.Delete(ctx, client.WithProcessKill); err != nil {
			t.Errorf("%s: delete: %v", runtime, err)
		}
		return fmt.Sprintf("%d %s%s", r.Code, r.Stdout, withoutIDs(r.Stderr, c.ID()))
	}
	if want, got := inside(stock), inside(forefend); got != want || !strings.HasPrefix(want, "0 ") {
		t.Errorf("exec: %q, stock %q", got, want)
	}
}
