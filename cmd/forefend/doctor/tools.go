package doctor

import (
	"context"
	"fmt"
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
	return append(runcRows(ctx), containerd(ctx)...)
}

func runcRows(ctx context.Context) []Row {
	const library = "libseccomp (of runc)"
	const unwatched = "no container of Forefend starts: system calls cannot be watched"
	text, err := ask(ctx, "runc", "--version")
	if err != nil {
		return []Row{missing("runc", err.Error(), "no container starts", "install runc 1.1 or newer where containerd finds it")}
	}
	runc := ok("runc", match(text, `runc version (\S+)`))
	if !atLeast(runc.Found, 1, 1) {
		runc = missing("runc", runc.Found, unwatched, "runc 1.1 or newer: older ones cannot hand over a seccomp listener")
	}
	seccomp := ok(library, match(text, `libseccomp: (\S+)`))
	switch {
	case seccomp.Found == "":
		seccomp = missing(library, "this runc was built without seccomp", unwatched, "install a runc built with the seccomp tag")
	case !atLeast(seccomp.Found, 2, 5):
		seccomp = missing(library, seccomp.Found, unwatched, "libseccomp 2.5 or newer: older ones know no user notification")
	case !atLeast(seccomp.Found, 2, 6):
		seccomp = degraded(library, seccomp.Found, "WAIT_KILLABLE cannot be set: signals can restart watched calls", "libseccomp 2.6 or newer")
	}
	return []Row{runc, seccomp}
}

func containerd(ctx context.Context) []Row {
	text, err := ask(ctx, "containerd", "--version")
	if err != nil {
		return []Row{degraded("containerd", err.Error(), "nothing, if containerd runs from elsewhere; its configuration was not looked at",
			"else install 1.6 or newer")}
	}
	r := ok("containerd", match(text, `\s(v?\d+\.\d+\S*)`))
	if !atLeast(r.Found, 1, 6) {
		return []Row{missing("containerd", r.Found, "the shim does not speak its protocol", "containerd 1.6 or newer")}
	}
	config, err := ask(ctx, "containerd", "config", "dump")
	if err != nil {
		return []Row{r, degraded("containerd's config", err.Error(), "doctor cannot tell whether Kubernetes can use Forefend", "mend what `containerd config dump` complains about")}
	}
	return []Row{r, handler(config)}
}

// runtimeType is what containerd's configuration calls this runtime.
const runtimeType = "io.containerd.forefend.v1"

var (
	tableHeader = regexp.MustCompile(`^\s*\[(.+)\]\s*$`)
	setting     = regexp.MustCompile(`^\s*([a-z_]+)\s*=\s*(.*?)\s*$`)
)

// handler looks for a runtime handler of ours in containerd's configuration, as TOML that containerd has printed.
func handler(config string) Row {
	const feature = "containerd's config"
	table, name, annotations := "", "", map[string]string{}
	for line := range strings.Lines(config) {
		if m := tableHeader.FindStringSubmatch(line); m != nil {
			table = m[1]
			continue
		}
		m := setting.FindStringSubmatch(line)
		switch {
		case m == nil:
		case m[1] == "runtime_type" && strings.Trim(m[2], `"'`) == runtimeType:
			name = table
		case m[1] == "pod_annotations":
			annotations[table] = m[2]
		}
	}
	short := strings.Trim(name[strings.LastIndex(name, ".")+1:], `"'`)
	switch {
	case name == "":
		return ok(feature, "no runtime handler: ctr and nerdctl need none, Kubernetes does (docs/kubernetes.md)")
	case !strings.Contains(annotations[name], "forefend.dev/"):
		return degraded(feature, "runtime handler "+short+" without pod_annotations", "annotations of pods (forefend.dev/…) do not reach Forefend",
			fmt.Sprintf("pod_annotations = [\"forefend.dev/*\"] in [%s]", name))
	}
	return ok(feature, "runtime handler "+short)
}

// shimName is the shim's binary.
const shimName = "containerd-shim-forefend-v1"

// Shim looks for the shim that containerd would start, and whether it is of the same build as this binary.
func Shim(ctx context.Context, version string) Row {
	path, err := exec.LookPath(shimName)
	if err != nil {
		return degraded("shim", shimName+" is not in PATH", "containerd cannot start a container of Forefend, unless its own PATH has it",
			"make install, or the package; or start doctor with containerd's PATH")
	}
	text, err := ask(ctx, path, "--version")
	its := match(text, `^`+shimName+` (\S+)`)
	if err != nil || its == "" {
		return degraded("shim", path+" does not say its version", "it is older than this binary: new containers get the older version's features",
			"install both binaries of one release")
	}
	if its != version {
		return degraded("shim", path+" is "+its, "this binary is "+version+": new containers get the features of "+its,
			"install both binaries of one release")
	}
	return ok("shim", its+", "+path)
}

// agentName is the agent's binary.
const agentName = "forefend-agent"

// Agent looks for the agent that shims would start, and whether it is of the same build as this binary.
func Agent(ctx context.Context, version string) Row {
	const without = "containers run without agent: no application messages, no list of their sockets"
	path, err := exec.LookPath(agentName)
	if err != nil {
		return degraded("agent", agentName+" is not in PATH", without, "make install, or the package; it lies beside the shim")
	}
	text, err := ask(ctx, path, "--version")
	if its := match(text, `^`+agentName+` (\S+)`); err != nil || its == "" {
		return degraded("agent", path+" does not say its version", without, "install the binaries of one release")
	} else if its != version {
		return degraded("agent", path+" is "+its, "this binary is "+version+": an agent of another release may be refused", "install the binaries of one release")
	}
	return ok("agent", version+", "+path)
}

func ask(ctx context.Context, tool string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(append([]string{tool}, args...), " "), err)
	}
	const most = 1 << 20
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
