package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// installMissing installs those of hostPackages that this machine lacks.
func installMissing(ctx context.Context, say func(string)) error {
	query := exec.CommandContext(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, hostPackages...)...)
	out, err := query.Output() // fails for packages it has never heard of, having listed the others
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return fmt.Errorf("dpkg-query: %w (the virtual machine is set up on Debian 12)", err)
	}
	missing := missingOf(string(out))
	if len(missing) == 0 {
		return nil
	}
	say("installing " + strings.Join(missing, " "))
	if os.Geteuid() != 0 {
		return fmt.Errorf("not root: run 'apt-get install %s' as root, then again", strings.Join(missing, " "))
	}
	get := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		_, err := output(cmd)
		return err
	}
	// A source of somebody else that cannot be reached must not stop us: the install decides.
	updated := get("update")
	if err := get(append([]string{"install", "-y", "--no-install-recommends"}, missing...)...); err != nil {
		return errors.Join(err, updated)
	}
	return nil
}

// missingOf lists the hostPackages that dpkg-query does not call installed.
func missingOf(listed string) []string {
	return slices.DeleteFunc(slices.Clone(hostPackages), func(name string) bool {
		return strings.Contains("\n"+listed, "\n"+name+" installed\n")
	})
}

// apt runs apt with package lists of its own, so that neither the sources nor the lists of this machine change.
type apt struct {
	dir     string
	options []string
}

// privateApt fetches the lists of suite and its backports from where this machine gets its packages.
func privateApt(ctx context.Context, work string) (*apt, error) {
	// Without release information apt tells the same before and after it has fetched any list.
	targets, err := output(exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"))
	if err != nil {
		return nil, err
	}
	sources, err := sourceList(targets)
	if err != nil {
		return nil, err
	}
	a := &apt{dir: filepath.Join(work, "apt")}
	list, lists := filepath.Join(a.dir, "sources.list"), filepath.Join(a.dir, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return nil, err
	}
	a.options = []string{
		"-q", "-o", "Dir::Etc::sourcelist=" + list, "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::lists=" + lists,
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"), "-o", "APT::Sandbox::User=root",
	}
	if err := os.MkdirAll(filepath.Join(a.dir, "cache/archives/partial"), 0o755); err != nil {
		return nil, err
	}
	_, err = output(exec.CommandContext(ctx, "apt-get", append(a.options, "update")...))
	return a, err
}

// sourceList makes a list with suite and its backports of the "URI SUITE COMPONENT" lines that apt knows.
func sourceList(targets string) (string, error) {
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) == 3 && f[1] == suite && f[2] == "main" {
			deb := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + f[0] + " "
			return deb + suite + " main\n" + deb + suite + "-backports main\n", nil
		}
	}
	return "", fmt.Errorf("apt has no source for Debian %s main: the virtual machine is set up on Debian 12", suite)
}

func (a *apt) cache(ctx context.Context, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "apt-cache", append(slices.Clone(a.options), args...)...))
}

// download fetches packages ("NAME/SUITE") into dir.
func (a *apt) download(ctx context.Context, dir string, packages []string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append(append(slices.Clone(a.options), "download"), packages...)...)
	cmd.Dir = dir
	_, err := output(cmd)
	return err
}

// output runs a command and returns what it printed; the error shows what it complained about.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		const most = 2000
		said := strings.TrimSpace(stderr.String())
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[:min(len(cmd.Args), 8)], " "), err, said[max(0, len(said)-most):])
	}
	return stdout.String(), nil
}
