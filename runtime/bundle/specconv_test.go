//go:build cgo

package bundle

import (
	"path/filepath"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// reference is what runc does before it makes anything, by its own code. It
// needs cgo, so it can only be here.
func reference(t *testing.T, s *specs.Spec, systemd bool) error {
	t.Helper()
	copied := *s
	if s.Root != nil {
		root := *s.Root
		dir, err := filepath.EvalSymlinks(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		root.Path = dir
		copied.Root = &root
	}
	c, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: "x", UseSystemdCgroup: systemd, Spec: &copied})
	if err != nil {
		return err
	}
	return validate.Validate(c)
}

// onlyMain are the refusals that come from runc's main package or its init, not
// from libcontainer's conversion: the reference does not have them.
var onlyMain = map[string]bool{"no process": true, "no args": true, "relative cwd": true, "rlimit": true}

// TestCheckIsRuncs compares Check with the code of runc it stands for.
func TestCheckIsRuncs(t *testing.T) {
	for name, raw := range corpus(t) {
		if err := reference(t, here(parse(t, raw)), false); err != nil {
			t.Errorf("runc refuses %s: %v", name, err)
		}
	}
	for name, raw := range goldens(t) {
		if err := reference(t, here(parse(t, raw)), false); err != nil {
			t.Errorf("runc refuses %s: %v", name, err)
		}
	}
	for name, change := range accepted {
		s := parse(t, corpus(t)["ctr-default"])
		change(s)
		if err := reference(t, s, false); err != nil {
			t.Errorf("runc refuses %s, Check does not: %v", name, err)
		}
	}
	for path, ok := range systemdPaths {
		s := parse(t, corpus(t)["ctr-default"])
		s.Linux.CgroupsPath = path
		if err := reference(t, s, true); (err == nil) != ok {
			t.Errorf("runc on %q with the systemd driver: %v", path, err)
		}
	}
	for name, c := range refused {
		s := parse(t, corpus(t)["ctr-default"])
		c.change(s)
		if err := reference(t, s, c.systemd); err == nil && !onlyMain[name] {
			t.Errorf("runc accepts %s, Check does not", name)
		}
	}
}
