package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"google.golang.org/protobuf/proto"

	"forefend.dev/forefend/test/e2e/harness"
)

// TestRuntimeOptions: what people tell the stock runtime, they can tell Forefend, under the oldest containerd and the
// newest; and however they name the runtime, it is this one.
func TestRuntimeOptions(t *testing.T) {
	for _, version := range []string{"1.6", "2.4"} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, harness.WithContainerd(version))
			t.Run("reach runc", func(t *testing.T) { optionsReachRunc(t, h) })
			t.Run("owner of the streams", func(t *testing.T) { ownerOfStreams(t, h) })
			t.Run("cgroup of the shim", func(t *testing.T) { cgroupOfShim(t, h) })
			t.Run("names of the runtime", func(t *testing.T) { namesOfRuntime(t, h) })
			t.Run("features", func(t *testing.T) { featuresAreStocks(t, h) })
		})
	}
}

// tellingRunc is a program that notes its arguments and is runc otherwise.
func (h *host) tellingRunc(t *testing.T) (path, log string) {
	t.Helper()
	log = filepath.Join(h.Dir, h.newID("args"))
	path = h.file(t, h.newID("runc"), fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\nexec runc \"$@\"\n", log))
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path, log
}

// asTOML is how containerd's CRI plugin hands on the options of a runtime it does not know.
func asTOML(lines ...string) *runtimeoptions.Options {
	return &runtimeoptions.Options{TypeUrl: "io.containerd.runc.v1.options", ConfigBody: []byte(strings.Join(lines, "\n"))}
}

// optionsReachRunc compares how runc is called: for every option, in both forms, as the stock shim calls it.
func optionsReachRunc(t *testing.T, h *host) {
	root := filepath.Join(h.Dir, "runc-root")
	for name, test := range map[string]struct {
		set    func(*options.Options)
		toml   string
		says   string
		refuse bool // by runc, on a machine without systemd
	}{
		"none":          {func(*options.Options) {}, "", "--root /run/containerd/runc/", false},
		"Root":          {func(o *options.Options) { o.Root = root }, fmt.Sprintf("Root = %q", root), "--root " + root, false},
		"NoPivotRoot":   {func(o *options.Options) { o.NoPivotRoot = true }, "NoPivotRoot = true", "--no-pivot", false},
		"NoNewKeyring":  {func(o *options.Options) { o.NoNewKeyring = true }, "NoNewKeyring = true", "--no-new-keyring", false},
		"SystemdCgroup": {func(o *options.Options) { o.SystemdCgroup = true }, "SystemdCgroup = true", "--systemd-cgroup", true},
		"several at once": {func(o *options.Options) { o.NoPivotRoot, o.NoNewKeyring, o.Root = true, true, root },
			fmt.Sprintf("NoPivotRoot = true\nNoNewKeyring = true\nRoot = %q", root), "--no-pivot --no-new-keyring", false},
	} {
		t.Run(name, func(t *testing.T) {
			said := make(map[string]string)
			for _, form := range []string{"stock", "forefend", "forefend, TOML"} {
				binary, log := h.tellingRunc(t)
				runtime, with := forefend, proto.Message(nil)
				switch given := (&options.Options{BinaryName: binary}); form {
				case "forefend, TOML":
					with = asTOML(fmt.Sprintf("BinaryName = %q", binary), test.toml)
				case "stock":
					runtime = stock
					fallthrough
				default:
					test.set(given)
					with = given
				}
				o := h.runSpecWith(t, runtime, with, func(s spec) {
					if test.refuse {
						s.at("linux")["cgroupsPath"] = "system.slice:forefend:" + filepath.Base(log)
					}
				}, "echo", "ran")
				if ran := o.err == nil && o.output == "ran\n"; ran == test.refuse {
					t.Errorf("%s: %+v", form, o)
				}
				text, err := os.ReadFile(log)
				if err != nil {
					t.Fatal(err)
				}
				said[form] = h.anonymous(string(text), o.id)
				h.remove(o.id)
			}
			if said["forefend"] != said["stock"] || said["forefend, TOML"] != said["stock"] || !strings.Contains(said["stock"], digits.ReplaceAllString(test.says, "N")) {
				t.Errorf("runc is called\n%s\nfrom TOML\n%s\nby the stock shim\n%s", said["forefend"], said["forefend, TOML"], said["stock"])
			}
		})
	}
	if err := os.RemoveAll(root); err != nil {
		t.Error(err)
	}
}

var digits = regexp.MustCompile(`[0-9]+`)

// anonymous takes a container's name and other numbers out of runc's arguments. Of the calls after the first two, how
// many there are depends on when the client notices the end.
func (h *host) anonymous(text, id string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if len(lines) == 2 {
			break
		}
		lines = append(lines, digits.ReplaceAllString(strings.ReplaceAll(line, id, "ID"), "N"))
	}
	return strings.Join(lines, "")
}

// ownerOfStreams: with a user namespace the mapped root has to own its standard streams.
func ownerOfStreams(t *testing.T, h *host) {
	said := make(map[string]string)
	for name, c := range map[string]struct {
		runtime string
		with    proto.Message
	}{
		"stock":          {stock, &options.Options{IoUid: 1234, IoGid: 4321}},
		"forefend":       {forefend, &options.Options{IoUid: 1234, IoGid: 4321}},
		"forefend, TOML": {forefend, asTOML("IoUid = 1234", "IoGid = 4321")},
	} {
		o := h.runSpecWith(t, c.runtime, c.with, func(spec) {}, "stat", "-L", "-c", "%u:%g", "/proc/self/fd/1", "/proc/self/fd/2")
		if o.err != nil {
			t.Errorf("%s: %v", name, o.err)
		}
		said[name] = o.output
	}
	if !strings.Contains(said["stock"], "4321") || said["forefend"] != said["stock"] || said["forefend, TOML"] != said["stock"] {
		t.Errorf("owners %q", said)
	}
}

// cgroupOfShim: the shim lives in the cgroup that the option names.
func cgroupOfShim(t *testing.T, h *host) {
	name := filepath.Base(h.Dir) + "-shims"
	made, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	if len(made) == 0 {
		made = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	made = slices.DeleteFunc(made, func(procs string) bool { // an empty set of CPUs takes no process
		return strings.Contains(procs, "/cpuset")
	})
	for i, procs := range made {
		made[i] = filepath.Join(filepath.Dir(procs), name)
		if err := os.Mkdir(made[i], 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	defer func() {
		eventually(t, "empty cgroups", func() bool {
			var failed error
			for _, dir := range made {
				if err := os.Remove(dir); !errors.Is(err, os.ErrNotExist) {
					failed = errors.Join(failed, err)
				}
			}
			return failed == nil
		})
	}()
	for form, test := range map[string]struct {
		runtime, shim string
		with          proto.Message
	}{
		"stock":          {stock, "containerd-shim-runc-v2", &options.Options{ShimCgroup: "/" + name}},
		"forefend":       {forefend, shimBinary, &options.Options{ShimCgroup: "/" + name}},
		"forefend, TOML": {forefend, shimBinary, asTOML(fmt.Sprintf("ShimCgroup = %q", "/"+name))},
	} {
		c, err := h.createWith(t, test.runtime, test.with, func(spec) {}, "sleep", "1000")
		if err != nil {
			t.Fatal(err)
		}
		h.createTask(t, c)
		pids, err := h.Pids(test.shim, "-id", c.ID())
		if err != nil || len(pids) != 1 {
			t.Fatalf("%s: shims %v %v", form, pids, err)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pids[0]))
		if err != nil || !strings.Contains(string(text), "/"+name+"\n") {
			t.Errorf("%s: the shim is in %s %v", form, text, err)
		}
		h.remove(c.ID())
	}
}

// namesOfRuntime runs containers under the other names an operator can give this runtime: the path of the shim, and
// the stock name with the path of the shim beside it.
func namesOfRuntime(t *testing.T, h *host) {
	shim := filepath.Join(h.BinDir, shimBinary)
	t.Run("path", func(t *testing.T) {
		id := h.start(t, sh("sleep 1000").under(shim))
		h.isForefends(t, id)
	})
	t.Run("path of the stock name", func(t *testing.T) {
		for _, with := range []proto.Message{nil, &options.Options{NoNewKeyring: true}} {
			c, err := h.createWith(t, stock, with, func(spec) {}, "sleep", "1000")
			if err != nil {
				t.Fatal(err)
			}
			task, err := c.NewTask(h.context(t), cio.NullIO, client.WithRuntimePath(shim))
			if err != nil {
				t.Fatal(err)
			}
			if err := task.Start(h.context(t)); err != nil {
				t.Fatal(err)
			}
			h.isForefends(t, c.ID())
		}
	})
}

// isForefends fails the test unless a running container is one of Forefend's, in every respect.
func (h *host) isForefends(t *testing.T, id string) {
	t.Helper()
	if r := h.exec(id, "grep", "^Seccomp:", "/proc/self/status"); r.Stdout != "Seccomp:\t2\n" {
		t.Errorf("exec: %q %q", r.Stdout, r.Stderr)
	}
	if d := h.explain(t, id); d.Availability != "daemon" {
		t.Errorf("explain: %+v", d)
	}
	if err := h.RestartContainerd(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r := h.exec(id, "echo", "alive"); r.Stdout != "alive\n" {
		t.Errorf("exec after a restart: %q %q", r.Stdout, r.Stderr)
	}
	if err := h.Ctr("task", "rm", "-f", id).Check(); err != nil {
		t.Error(err)
	}
}

// featuresAreStocks: containerd asks a runtime what it can do, with its options, and tells the kubelet.
func featuresAreStocks(t *testing.T, h *host) {
	if h.old() {
		return // 2.x asks; the question is the shim's own, so one version will do
	}
	said := make(map[string]string)
	for _, runtime := range []string{stock, forefend} {
		r := h.Ctr("plugins", "inspect-runtime", "--runtime", runtime)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		// ctr sends the stock runtime empty options, which the answer repeats, and other runtimes none.
		said[runtime] = strings.NewReplacer(runtime, "RUNTIME", `"Options": {}`, `"Options": null`).Replace(r.Stdout)
	}
	if !strings.Contains(said[stock], "idmap") {
		t.Errorf("stock says %s", said[stock])
	}
	if d := difference(said[stock], said[forefend]); d != "" {
		t.Errorf("%s", d)
	}
	config := h.file(t, "options.toml", "SystemdCgroup = true\nBinaryName = \"runc\"\n")
	r := h.Ctr("plugins", "inspect-runtime", "--runtime", forefend, "--runtime-config-path", config)
	if err := r.Check(); err != nil || !strings.Contains(r.Stdout, "idmap") || !strings.Contains(r.Stdout, "systemd_cgroup") {
		t.Errorf("with options of its own: %v %s", err, r.Stdout)
	}
}
