package doctor

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// toolTimeout bounds a tool that hangs on --version.
const toolTimeout = 5 * time.Second

// toolRows asks the tools in PATH for their versions.
func toolRows(ctx context.Context) []Row {
	text, err := versionOf(ctx, "runc")
	runc := Row{"runc", OK, match(text, `runc version (\S+)`), ""}
	seccomp := Row{"libseccomp (of runc)", OK, match(text, `libseccomp: (\S+)`), ""}
	switch {
	case err != nil:
		runc = Row{"runc", Missing, err.Error(), "install runc 1.1 or newer where containerd finds it"}
		seccomp = Row{}
	case !atLeast(runc.Found, 1, 1):
		runc.State, runc.Fix = Missing, "runc 1.1 or newer: older ones cannot hand over a seccomp listener"
	}
	switch {
	case err != nil:
	case seccomp.Found == "":
		seccomp.State, seccomp.Found, seccomp.Fix = Missing, "this runc was built without seccomp", "install a runc built with the seccomp tag"
	case !atLeast(seccomp.Found, 2, 5):
		seccomp.State, seccomp.Fix = Missing, "libseccomp 2.5 or newer: older ones know no user notification"
	case !atLeast(seccomp.Found, 2, 6):
		seccomp.State, seccomp.Fix = Degraded, "libseccomp 2.6 or newer, to set WAIT_KILLABLE: signals can restart watched calls"
	}
	rows := []Row{runc}
	if seccomp != (Row{}) {
		rows = append(rows, seccomp)
	}
	return append(rows, containerd(ctx), shim())
}

func containerd(ctx context.Context) Row {
	text, err := versionOf(ctx, "containerd")
	if err != nil {
		return Row{"containerd", Degraded, err.Error(), "fine if containerd runs from elsewhere; else install 1.6 or newer"}
	}
	r := Row{"containerd", OK, match(text, `\s(v?\d+\.\d+\S*)`), ""}
	if !atLeast(r.Found, 1, 6) {
		r.State, r.Fix = Missing, "containerd 1.6 or newer"
	}
	return r
}

func shim() Row {
	const name = "containerd-shim-forefend-v1"
	path, err := exec.LookPath(name)
	if err != nil {
		return Row{"shim", Degraded, name + " is not in PATH", "make install; containerd looks in its own PATH"}
	}
	return Row{"shim", OK, path, ""}
}

func versionOf(ctx context.Context, tool string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	const most = 4 << 10
	return string(out[:min(len(out), most)]), err
}

func match(text, pattern string) string {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}

// atLeast compares the first two numbers of a version. One that cannot be read is taken to be new: it is a build of
// somebody who knows.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return true
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(match(parts[1], `^(\d+)`))
	if errA != nil || errB != nil {
		return true
	}
	return a > major || a == major && b >= minor
}
