package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	atonce "forefend.dev/forefend/shim/early"
)

// byHand runs the shim's program in a bundle as containerd does.
type byHand struct {
	h      *host
	bundle string
	config string // which is none, so that no daemon starts
}

func newByHand(t *testing.T, h *host, id string) byHand {
	t.Helper()
	b := byHand{h, filepath.Join(t.TempDir(), id), filepath.Join(t.TempDir(), "config.toml")}
	if err := os.Mkdir(b.bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{filepath.Join(b.bundle, "config.json"): "{}", b.config: "odd = 1\n"} {
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(b.bundle, "log")
	if err := unix.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(log, os.O_RDWR, 0) // a shim does not begin without
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return b
}

func (b byHand) run(t *testing.T, action string, stdin []byte, env ...string) (stdout, stderr []byte) {
	t.Helper()
	id := filepath.Base(b.bundle)
	cmd := exec.Command(filepath.Join(b.h.BinDir, "containerd-shim-forefend-v1"),
		"-namespace", b.h.Namespace, "-address", b.h.Address, "-publish-binary", "/bin/false", "-id", id, "-bundle", b.bundle, action)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stderr = b.bundle, bytes.NewReader(stdin), &said
	cmd.Env = append(os.Environ(), append(env, "FOREFEND_CONFIG="+b.config)...)
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", action, err, said.Bytes())
	}
	return stdout, said.Bytes()
}

// start starts a shim, and tells what there is to tell of it. It ends it.
func (b byHand) start(t *testing.T, options ...proto.Message) (shim string, setUp int) {
	t.Helper()
	dir := filepath.Join(b.h.Dir, "s") // its path is short
	p := &bootapi.BootstrapParams{InstanceID: filepath.Base(b.bundle), Namespace: b.h.Namespace, ContainerdGrpcAddress: b.h.Address, SocketDir: &dir}
	for _, o := range options {
		if err := p.AddExtension(o); err != nil {
			t.Fatal(err)
		}
	}
	input, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr := b.run(t, "start", input, "GODEBUG=inittrace=1", "GOMAXPROCS=3")
	var r bootapi.BootstrapResult
	if err := proto.Unmarshal(stdout, &r); err != nil {
		t.Fatal(err)
	}
	pids, err := b.h.Pids("containerd-shim-forefend-v1", "-id", p.InstanceID)
	if err != nil || len(pids) != 1 {
		t.Fatalf("shims: %v, %v", pids, err)
	}
	pid := pids[0]
	said := []string{fmt.Sprint(&r)}
	for _, file := range []string{"cmdline", "oom_score_adj"} {
		body, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, file+" "+strings.ReplaceAll(string(body), "\x00", " "))
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	variables := strings.Split(string(environ), "\x00")
	slices.Sort(variables)
	said = append(said, variables...)
	for _, link := range []string{"exe", "cwd", "fd/0", "fd/1", "fd/3"} { // fd/2 becomes the log sooner or later
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, link))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(to, "socket:") {
			to = "a socket"
		}
		said = append(said, link+" "+to)
	}
	group, err := unix.Getpgid(pid)
	if err != nil {
		t.Fatal(err)
	}
	said = append(said, fmt.Sprint("leads its group: ", group == pid))
	socket := strings.TrimPrefix(r.Address, "unix://")
	info, err := os.Lstat(socket)
	if err != nil {
		t.Fatal(err)
	}
	link, err := os.Readlink(filepath.Join(b.bundle, "s"))
	if err != nil {
		t.Fatal(err)
	}
	said = append(said, fmt.Sprint("socket ", info.Mode()), "link "+link)
	if err := errors.Join(unix.Kill(pid, unix.SIGKILL), os.Remove(socket)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shim's end", func() bool {
		pids, err := b.h.Pids("containerd-shim-forefend-v1", "-id", p.InstanceID)
		return err == nil && len(pids) == 0
	})
	return strings.Join(said, "\n"), bytes.Count(stderr, []byte("init ")) // of the start command, and of the shim until its error output is closed
}

// TestEarly starts and deletes by hand: what package early does is what upstream does, while a fraction of the program is set up.
func TestEarly(t *testing.T) {
	h := newHost(t)
	b := newByHand(t, h, h.newID("early"))
	short, few := b.start(t, &options.Options{SystemdCgroup: true})
	long, all := b.start(t, &options.Options{SystemdCgroup: true}, &options.CheckpointOptions{}) // which early does not know
	if short != long {
		t.Errorf("early starts\n%s\nupstream starts\n%s", short, long)
	}
	if few == 0 || 2*few > all {
		t.Errorf("start sets up %d of %d packages", few, all)
	}
	socket := filepath.Join(t.TempDir(), "socket")
	if err := atonce.NoteRemoved(b.bundle, socket, []byte("as answered before")); err != nil {
		t.Fatal(err)
	}
	answer, said := b.run(t, "delete", nil, "GODEBUG=inittrace=1")
	if few := bytes.Count(said, []byte("init ")); string(answer) != "as answered before" || few == 0 || 2*few > all {
		t.Errorf("delete answers %q, and sets up %d of %d packages", answer, few, all)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if answer, _ := b.run(t, "delete", nil); string(answer) == "as answered before" {
		t.Error("the socket of a shim that was killed does not matter")
	}
}

// TestNothingIsLookedForTwice has containerd delete containers: its delete commands find what the shims noted, and do not have runc look again. (A
// containerd that has removed the bundle by then runs none, or one that finds no note.)
func TestNothingIsLookedForTwice(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	log, runc, config := filepath.Join(dir, "log"), filepath.Join(dir, "runc"), filepath.Join(dir, "options.toml")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %s\nexec %s \"$@\"\n", log, filepath.Join(h.BinDir, "runc"))
	if err := os.WriteFile(runc, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("BinaryName = \""+runc+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const lives = 8
	for range lives {
		h.mustRun(t, sh("true").with("--runtime-config-path", config))
	}
	eventually(t, "the end of all shims", func() bool {
		pids, err := h.Pids("containerd-shim-forefend-v1")
		return err == nil && len(pids) == 0
	})
	said, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(said), " delete "); n < lives {
		t.Errorf("runc deleted %d containers of %d", n, lives)
	}
	if n := strings.Count(string(said), "--force"); n > lives/2 {
		t.Errorf("runc was asked again %d times of %d", n, lives)
	}
}
