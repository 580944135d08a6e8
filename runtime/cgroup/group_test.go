package cgroup

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestLocate(t *testing.T) {
	mounts := map[string]mount{
		"memory":       {"/sys/fs/cgroup/memory", "/"},
		"cpu":          {"/sys/fs/cgroup/cpu,cpuacct", "/docker/abc"},
		"name=systemd": {"/sys/fs/cgroup/systemd", "/"},
		"":             {"/sys/fs/cgroup/unified", "/"},
	}
	got, err := locate(map[string]string{
		"memory": "/k8s/pod/x", "cpu": "/docker/abc/x", "name=systemd": "/", "rdma": "/not/mounted", "": "/k8s/pod/x",
	}, mounts)
	want := Group{
		Paths: map[string]string{
			"memory":       "/sys/fs/cgroup/memory/k8s/pod/x",
			"cpu":          "/sys/fs/cgroup/cpu,cpuacct/x",
			"name=systemd": "/sys/fs/cgroup/systemd",
		},
		Unified: "/sys/fs/cgroup/unified/k8s/pod/x",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if back := FromMap(got.Map()); !reflect.DeepEqual(back, want) {
		t.Errorf("through a map: %+v", back)
	}
	for _, paths := range []map[string]string{
		{"cpu": "/docker/other"}, {"memory": "/../../outside"}, {"rdma": "/x"}, {},
	} {
		if g, err := locate(paths, mounts); err == nil {
			t.Errorf("locate(%v) = %+v, want an error", paths, g)
		}
	}
}

func TestAt(t *testing.T) {
	mounts, err := hierarchies()
	if err != nil {
		t.Skipf("no cgroups here: %v", err)
	}
	g, err := At("/crash/x")
	if err != nil || len(g.Map()) != len(mounts) || g.Exists() {
		t.Errorf("got %+v, %v for %d hierarchies", g, err, len(mounts))
	}
	for controller, dir := range g.Map() {
		if m := mounts[controller]; m.root == "/" && dir != filepath.Join(m.point, "crash/x") {
			t.Errorf("%q: %s", controller, dir)
		}
	}
	if err := g.Remove(); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	if g, err := At("/../outside"); err == nil {
		t.Errorf("got %+v", g)
	}
}

func TestRemoveRefusesWhatIsNotAGroup(t *testing.T) {
	mounts, err := hierarchies()
	if err != nil {
		t.Skipf("no cgroups here: %v", err)
	}
	elsewhere := t.TempDir()
	bad := map[string]string{"no such controller": elsewhere}
	for controller, m := range mounts {
		for _, dir := range []string{m.point, m.point + "/", m.point + "/..", m.point + "/../x", elsewhere, "", "relative"} {
			bad[controller] = dir
			if err := FromMap(maps.Clone(bad)).Remove(); dir != "" && err == nil {
				t.Errorf("Remove of %q in hierarchy %q: no error", dir, controller)
			}
		}
		break
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Errorf("Remove took a directory that is no cgroup: %v", err)
	}
}

func TestJoinRefusesPathsOutside(t *testing.T) {
	for _, name := range []string{"", ".", "/abs", "../up", "a/../../b"} {
		if err := Join(name, os.Getpid()); err == nil {
			t.Errorf("Join(%q): no error", name)
		}
	}
}

func TestInheritCpuset(t *testing.T) {
	root := fixture(t, map[string]string{
		"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n",
		"a/cpuset.cpus": "\n", "a/cpuset.mems": "\n", "a/b/cpuset.cpus": "1\n", "a/b/cpuset.mems": "",
	})
	b := filepath.Join(root, "a/b")
	if err := inheritCpuset(root, b); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"a/cpuset.cpus": "0-1", "a/cpuset.mems": "0", "a/b/cpuset.cpus": "1", "a/b/cpuset.mems": "0"} {
		got, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || string(got[:len(want)]) != want {
			t.Errorf("%s is %q, %v; want %q", file, got, err, want)
		}
	}
}
