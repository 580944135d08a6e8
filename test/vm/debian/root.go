package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// rootPackages make a root whose init is systemd, with what our tests and tools load or call there.
var rootPackages = []string{"systemd", "dbus", "kmod", "iproute2", "procps", "libseccomp2", "busybox-static"}

// SetupRoot makes a root file system with systemd in dir unless it is there.
func SetupRoot(ctx context.Context, dir string, say func(string)) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	say("making a root with systemd (once)")
	targets, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"))
	if err != nil {
		return err
	}
	sources, err := sourceList(targets)
	if err != nil {
		return err
	}
	sources, _, _ = strings.Cut(sources, "\n") // without backports
	work := dir + ".new"
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--format=directory",
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged,"+strings.Join(rootPackages, ","), suite, work, "-")
	cmd.Stdin = strings.NewReader(sources + "\n")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if _, err := output(cmd); err != nil {
		return fmt.Errorf("%w (mmdebstrap comes with make setup)", err)
	}
	return os.Rename(work, dir)
}
