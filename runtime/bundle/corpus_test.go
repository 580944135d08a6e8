package bundle

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "generate the corpus of specs again")

// corpusDir holds specs made by containerd's own generator; package rewrite's tests
// read them too.
const corpusDir = "../rewrite/testdata/specs"

// recipes are the corpus: what ctr, nerdctl and the CRI plugin make of the flags
// people use. The CRI ones follow the plugin's options; it has no generator one could call.
var recipes = map[string][]oci.SpecOpts{
	"ctr-default":    {},
	"ctr-tty":        {oci.WithTTY, oci.WithTTYSize(80, 24)},
	"ctr-privileged": {oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithNewPrivileges},
	"ctr-host-net": {oci.WithHostNamespace(specs.NetworkNamespace),
		oci.WithHostNamespace(specs.PIDNamespace)},
	"ctr-limits": {oci.WithMemoryLimit(64 << 20), oci.WithCPUCFS(50000, 100000), oci.WithCPUShares(512),
		oci.WithPidsLimit(100), seccomp.WithDefaultProfile()},
	"ctr-readonly": {oci.WithRootFSReadonly(), oci.WithNoNewPrivileges, seccomp.WithDefaultProfile()},
	"ctr-caps": {oci.WithAddedCapabilities([]string{"CAP_NET_ADMIN", "CAP_SYS_PTRACE"}),
		oci.WithDroppedCapabilities([]string{"CAP_MKNOD"}), oci.WithAmbientCapabilities([]string{"CAP_NET_ADMIN"})},
	"ctr-userns": {oci.WithUserNamespace([]specs.LinuxIDMapping{{HostID: 100000, Size: 65536}},
		[]specs.LinuxIDMapping{{HostID: 100000, Size: 65536}})},
	"nerdctl": {seccomp.WithDefaultProfile(), oci.WithMemoryLimit(512 << 20), oci.WithMemorySwap(1 << 30),
		oci.WithCPUCFS(33333, 100000), oci.WithCPUBurst(10000), oci.WithPidsLimit(-1), oci.WithNewPrivileges,
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace}), oci.WithNamespacedCgroup(),
		oci.WithRlimit(&specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: 1048576, Soft: 1024}),
		oci.WithRlimit(&specs.POSIXRlimit{Type: "RLIMIT_CORE", Hard: 1<<64 - 1, Soft: 0}),
		oci.WithAnnotations(map[string]string{"nerdctl/networks": `["bridge"]`, "forefend.dev/pids": "50"}), hook},
	"cri-sandbox": {cri("sandbox"), oci.WithRootFSReadonly(), oci.WithCPUShares(2), oci.WithProcessArgs("/pause"),
		oci.WithUIDGID(65535, 65535), oci.WithNoNewPrivileges, seccomp.WithDefaultProfile()},
	"cri-container": {cri("container"), oci.WithMemoryLimit(256 << 20), oci.WithMemorySwap(256 << 20),
		oci.WithCPUCFS(20000, 100000), oci.WithCPUShares(102), oci.WithPidsLimit(0), oci.WithNewPrivileges, seccomp.WithDefaultProfile()},
	"cri-besteffort": {cri("container"), resources(func(r *specs.LinuxResources) {
		r.Memory = &specs.LinuxMemory{Limit: new(int64), Swap: new(int64)}
		r.CPU = &specs.LinuxCPU{Quota: new(int64), Period: new(uint64), Shares: new(uint64)}
		r.Unified = map[string]string{"memory.oom.group": "1", "memory.swap.max": "0", "memory.high": "209715200"}
	})},
}

func hook(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/usr/local/bin/nerdctl", Args: []string{"nerdctl", "internal", "oci-hook", "createRuntime"}}}}
	return nil
}

func resources(set func(*specs.LinuxResources)) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		set(s.Linux.Resources)
		return nil
	}
}

func cri(kind string) oci.SpecOpts {
	return oci.Compose(
		oci.WithAnnotations(map[string]string{"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "2f6a",
			"io.kubernetes.cri.sandbox-namespace": "default", "io.kubernetes.cri.sandbox-name": "web-0"}),
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/var/run/netns/cni-0f5c"}),
		oci.WithCgroup("/kubepods/burstable/pod1d/2f6a"),
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			adj := 968
			s.Process.OOMScoreAdj = &adj
			return nil
		})
}

// TestCorpus makes the corpus with -update, and holds that the recipes are those of
// the files.
func TestCorpus(t *testing.T) {
	if *update {
		ctx := namespaces.WithNamespace(context.Background(), "default")
		for name, opts := range recipes {
			opts = append([]oci.SpecOpts{oci.WithRootFSPath("rootfs"), oci.WithProcessArgs("/bin/sh", "-c", "exec sleep 60 && true")}, opts...)
			s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: name}, opts...)
			if err != nil {
				t.Fatal(err)
			}
			writeJSON(t, filepath.Join(corpusDir, name+".json"), s)
		}
	}
	for name := range recipes {
		if _, ok := corpus(t)[name]; !ok {
			t.Errorf("recipe %s has no file: run with -update", name)
		}
	}
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// corpus returns the text of every spec by name.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpusDir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	out := make(map[string][]byte)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".json")] = b
	}
	return out
}
