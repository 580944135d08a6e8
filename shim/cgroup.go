package shim

import (
	"path"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/cgroup"
)

// expectedCgroup is where runc will put a container, as far as that can be told
// beforehand. A runc that is killed before it has noted its state leaves its cgroups
// behind, and nothing but this says where. systemd removes its empty scopes itself.
// A place where somebody is before runc was asked is not the container's alone, and not its to remove.
func expectedCgroup(spec *specs.Spec, systemd bool) map[string]string {
	if systemd || spec.Linux == nil || !path.IsAbs(spec.Linux.CgroupsPath) {
		return nil
	}
	g, err := cgroup.At(path.Clean(spec.Linux.CgroupsPath))
	if err != nil {
		return nil // nor will runc find a place there
	}
	return g.Free().Map()
}

// leaving is how long processes that were killed may take to be gone.
const leaving = time.Second

// removeCgroup removes what is left of a container's cgroups once its last
// process has left them.
func removeCgroup(paths map[string]string) error {
	if len(paths) == 0 {
		return nil
	}
	group := cgroup.FromMap(paths)
	for deadline := time.Now().Add(leaving); ; time.Sleep(10 * time.Millisecond) {
		err := group.Remove()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
