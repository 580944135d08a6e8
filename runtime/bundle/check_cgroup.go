package bundle

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// cgroupConfig fills in the container's cgroup and limits.
func cgroupConfig(c *configs.Config, spec *specs.Spec, opts CheckOptions) error {
	c.Cgroups = &cgroups.Cgroup{Systemd: opts.SystemdCgroup, Resources: &cgroups.Resources{}}
	if spec.Linux == nil {
		return nil
	}
	if p := spec.Linux.CgroupsPath; opts.SystemdCgroup && p != "" && strings.Count(p, ":") != 2 {
		return fmt.Errorf("linux.cgroupsPath: %.100q is not of the form slice:prefix:name", p)
	}
	r := spec.Linux.Resources
	if r == nil {
		return nil
	}
	to := c.Cgroups.Resources
	if m := r.Memory; m != nil {
		set(&to.Memory, m.Limit)
		set(&to.MemorySwap, m.Swap)
		set(&to.MemoryReservation, m.Reservation)
	}
	if len(r.Unified) > 0 {
		to.Unified = maps.Clone(r.Unified)
	}
	return deviceRules(r.Devices)
}

func set(to *int64, from *int64) {
	if from != nil {
		*to = *from
	}
}

func deviceRules(rules []specs.LinuxDeviceCgroup) error {
	for i, d := range rules {
		switch {
		case d.Access == "":
			return fmt.Errorf("linux.resources.devices[%d]: access must not be empty", i)
		case d.Type != "" && d.Type != "a" && d.Type != "b" && d.Type != "c":
			return fmt.Errorf("linux.resources.devices[%d]: unknown type %.20q", i, d.Type)
		}
	}
	return nil
}

// devices checks the device nodes.
func devices(list []specs.LinuxDevice) error {
	for i, d := range list {
		if d.Type != "p" && d.Type != "u" && d.Type != "c" && d.Type != "b" {
			return fmt.Errorf("linux.devices[%d]: unknown type %.20q", i, d.Type)
		}
	}
	return nil
}

// userNamespace fills in the mappings. Those of a namespace that is joined only runc can
// read (it needs a process inside), so its root is taken to be mapped.
func userNamespace(c *configs.Config, l *specs.Linux) error {
	if !c.Namespaces.Contains(configs.NEWUSER) || c.Namespaces.PathOf(configs.NEWUSER) != "" {
		return nil
	}
	c.UIDMappings, c.GIDMappings = mappings(l.UIDMappings), mappings(l.GIDMappings)
	_, uid := c.HostRootUID()
	_, gid := c.HostRootGID()
	return errors.Join(uid, gid)
}

func mappings(list []specs.LinuxIDMapping) []configs.IDMap {
	var out []configs.IDMap
	for _, m := range list {
		out = append(out, configs.IDMap{ContainerID: int64(m.ContainerID), HostID: int64(m.HostID), Size: int64(m.Size)})
	}
	return out
}
