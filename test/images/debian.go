package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// unwanted are directories that Debian's packages fill and no container reads.
var unwanted = []string{
	"/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info", "/usr/share/lintian",
	"/usr/share/i18n", "/usr/share/bash-completion", "/usr/share/zoneinfo",
}

// debianRoot writes the root filesystem of an essential Debian with packages as the tar file path.
func debianRoot(ctx context.Context, path string, packages []string, setup string) error {
	if os.Geteuid() != 0 {
		return errors.New("building from Debian packages needs root (mmdebstrap and chroot)")
	}
	suite, sources, err := debianSources(ctx)
	if err != nil {
		return err
	}
	args := []string{
		"--quiet", "--mode=root", "--variant=essential", "--format=tar",
		// A merged /usr from the start: the package that merges an old one brings 50 MiB of Perl along.
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=usr-is-merged",
		"--include=" + strings.Join(packages, ","),
		"--customize-hook=" + inRoot(setup),
	}
	for _, dir := range unwanted {
		args = append(args, "--dpkgopt=path-exclude="+dir+"/*")
	}
	// The source list goes in on stdin: a file would leave the name of this host's mirror behind.
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, suite, path, "-")...)
	cmd.Stdin = strings.NewReader(sources)
	// A fixed time makes unchanged packages give the same layer again.
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1767225600", "LC_ALL=C")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, log.String())
	}
	return nil
}

// inRoot is a shell line that runs setup inside the root filesystem mmdebstrap passes as $1.
func inRoot(setup string) string {
	return `chroot "$1" /bin/sh -euc '` + strings.ReplaceAll(setup, `'`, `'\''`) + `'`
}

// debianSources returns the suite of this machine and its own Debian sources, one "deb" line each: the build uses the
// mirror that works here, and no file of the repository names one. It asks apt, not the files, because there are two
// formats of them, and it works before the first `apt-get update`.
func debianSources(ctx context.Context) (suite, sources string, err error) {
	suite, err = codename()
	if err != nil {
		return "", "", err
	}
	// Without release information apt says the same before and after it has fetched any list.
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info",
		"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return "", "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	lines := debLines(string(out), suite)
	if len(lines) == 0 {
		return "", "", fmt.Errorf("apt has no source for Debian %s main", suite)
	}
	return suite, strings.Join(lines, ""), nil
}

// debLines picks the main component of suite, its updates and its security fixes out of "URI SUITE COMPONENT" lines.
func debLines(targets, suite string) []string {
	var lines []string
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" || !slices.Contains([]string{suite, suite + "-updates", suite + "-security"}, f[1]) {
			continue
		}
		if deb := "deb " + strings.Join(f, " ") + "\n"; !slices.Contains(lines, deb) {
			lines = append(lines, deb)
		}
	}
	return lines
}

// codename reads the suite name of the running system, "bookworm" on Debian 12.
func codename() (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release names no VERSION_CODENAME: images are built on Debian")
}
