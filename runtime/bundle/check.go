package bundle

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runtime-spec/specs-go"

	"forefend.dev/forefend/runtime/rewrite"
)

// CheckOptions are the options runc will be called with.
type CheckOptions struct {
	SystemdCgroup bool
}

// Check says whether runc 1.5 accepts a spec, before runc sees it. It runs
// libcontainer's own validator on a configuration made from the spec, and applies the
// rules by which runc makes that configuration. Those are written again here, because
// libcontainer's specconv needs cgo and the shim is built without; a test compares
// the two. The root filesystem need not exist yet.
//
// It must not refuse what runc accepts. What needs a look at the options of mounts
// or at another process's user namespace is therefore left to runc: no policy
// changes it. So is a spec that did not pass before it was rewritten (CheckRewrite).
//
// Errors are errdefs.ErrInvalidArgument.
func Check(spec *specs.Spec, opts CheckOptions) (err error) {
	defer func() {
		if r := recover(); r != nil { // libcontainer on a hostile spec
			err = fmt.Errorf("check of the spec: %v: %w", r, errdefs.ErrInvalidArgument)
		}
	}()
	c, err := config(spec, opts)
	if err == nil {
		err = validate.Validate(c)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// CheckRewrite checks a rewritten spec. Where the original does not pass either it
// returns nil: then runc speaks for itself.
func CheckRewrite(original, rewritten *specs.Spec, opts CheckOptions) error {
	err := Check(rewritten, opts)
	if err != nil && Check(original, opts) != nil {
		return nil
	}
	return err
}

// Check is CheckRewrite of what config.json holds and the typed view. It costs a
// decoding only when there is something to complain about.
func (b *Bundle) Check(opts CheckOptions) error {
	err := Check(b.spec, opts)
	if err == nil {
		return nil
	}
	original, derr := decode(configName, b.raw)
	if derr != nil || Check(original, opts) != nil {
		return nil
	}
	return err
}

// config makes of a spec what the validator looks at. The root filesystem is
// mounted later, so a directory that exists stands in.
func config(spec *specs.Spec, opts CheckOptions) (*configs.Config, error) {
	if spec.Root == nil {
		return nil, errors.New("root must be specified")
	}
	c := &configs.Config{Rootfs: "/", Readonlyfs: spec.Root.Readonly, Hostname: spec.Hostname, Domainname: spec.Domainname}
	for i, m := range spec.Mounts {
		if hasNUL(m.Source) || hasNUL(m.Destination) || hasNUL(m.Type) {
			return nil, fmt.Errorf("mounts[%d]: a field contains a null byte", i)
		}
	}
	return c, errors.Join(processConfig(c, spec.Process), cgroupConfig(c, spec, opts), linuxConfig(c, spec.Linux))
}

func processConfig(c *configs.Config, p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process must not be empty")
	case !path.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd: %.100q is not an absolute path", p.Cwd)
	case len(p.Args) == 0:
		return errors.New("process.args must not be empty")
	}
	names := rewrite.RlimitNames()
	for i, l := range p.Rlimits {
		if !slices.Contains(names, l.Type) {
			return fmt.Errorf("process.rlimits[%d]: unknown type %.40q", i, l.Type)
		}
	}
	c.NoNewPrivileges = p.NoNewPrivileges
	c.ProcessLabel = p.SelinuxLabel
	c.Scheduler = p.Scheduler
	c.IOPriority = p.IOPriority
	_, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	return err
}

func hasNUL(s string) bool {
	return slices.Contains([]byte(s), 0)
}
