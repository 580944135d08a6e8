package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
)

// TestShimKilled kills shims: containerd then runs their delete command, which has nothing but the disk to go by.
func TestShimKilled(t *testing.T) {
	h := newHost(t)
	for name, prepare := range map[string]func(t *testing.T, id string){
		"running": func(*testing.T, string) {},
		"paused": func(t *testing.T, id string) {
			if err := h.Ctr("task", "pause", id).Check(); err != nil {
				t.Fatal(err)
			}
		},
		"with an exec": func(t *testing.T, id string) {
			if err := h.Ctr("task", "exec", "-d", "--exec-id", "e", id, "sleep", "1000").Check(); err != nil {
				t.Fatal(err)
			}
		},
		"without a daemon": func(t *testing.T, _ string) { h.killDaemons(t) },
		"created, not started": func(t *testing.T, id string) {
			h.remove(id)
			c, err := h.create(t, forefend, func(spec) {}, "sleep", "1000")
			if err != nil {
				t.Fatal(err)
			}
			h.createTask(t, c)
			h.killShim(t, c.ID())
			eventually(t, "the shim's end", func() bool { return h.traceless(t, c.ID()) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := h.newID("victim")
			h.start(t, sh("sleep 1000 & sleep 1000; true").named(id))
			prepare(t, id)
			if pids, _ := h.Pids(shimBinary, "-id", id); len(pids) == 0 {
				return // prepare has done it
			}
			h.killShim(t, id)
			eventually(t, "no trace of it", func() bool { return h.traceless(t, id) })
			if r := h.Ctr("task", "ls"); strings.Contains(r.Stdout, "RUNNING") {
				t.Errorf("containerd lists %q", r.Stdout)
			}
			h.remove(id)
			if out := h.mustRun(t, sh("echo again").named(id)); out != "again\n" {
				t.Errorf("the next container of this id: %q", out)
			}
			h.noLeaks(t)
		})
	}
}

// killShim ends the shim of a container by SIGKILL.
func (h *host) killShim(t testing.TB, id string) {
	t.Helper()
	pids, err := h.Pids(shimBinary, "-id", id)
	if err != nil || len(pids) != 1 {
		t.Fatalf("shims of %s: %v %v", id, pids, err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// traceless tells whether a container has no process, record or socket any more.
func (h *host) traceless(t testing.TB, id string) bool {
	t.Helper()
	found, _ := filepath.Glob(h.state("c", "*", id+"*"))
	sockets, _ := filepath.Glob(h.state("n", "*"))
	shims, err := h.Pids(shimBinary, "-id", id)
	sleepers, err2 := h.Pids("sleep", "1000")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return len(found)+len(sockets)+len(shims)+len(sleepers) == 0
}

// TestFailedCreate makes each step of Create fail. Nothing may stay behind, and the next container starts.
func TestFailedCreate(t *testing.T) {
	h := newHost(t)
	h.mustRun(t, sh("true")) // the daemon has made its directories
	for name, test := range map[string]struct {
		c    container
		says string
	}{
		"no such command":            {container{args: []string{"nonexistent-command"}}, "not found"},
		"a mount that fails":         {sh("echo ran", "--mount=type=bind,src=/nonexistent/dir,dst=/x,options=rbind"), "/nonexistent/dir"},
		"a namespace that is absent": {sh("echo ran", "--with-ns=network:/nonexistent/ns"), "/nonexistent/ns"},
	} {
		t.Run(name, func(t *testing.T) {
			id := h.newID("fails")
			r := h.run(test.c.named(id))
			if r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, test.says) {
				t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
			}
			h.remove(id)
			h.noLeaks(t)
			h.mustRun(t, sh("true").named(id))
		})
	}
	for _, name := range []string{"n", "c"} {
		t.Run("no place for "+name, func(t *testing.T) { noPlaceFor(t, h, h.state(name)) })
	}
	for name, script := range map[string]string{
		"runc cannot create":                     failing("create", "echo no >&2; exit 3"),
		"runc dies after creating":               failing("create", `REAL "$@"; kill -9 $$`),
		"runc cannot start":                      failing("start", "echo no >&2; exit 3"),
		"runc cannot start, nor delete at first": failing("start", "exit 3") + failing("delete", "[ -e $0.once ] || { touch $0.once; exit 4; }"),
	} {
		t.Run(name, func(t *testing.T) { runcFails(t, h, script) })
	}
	t.Run("runc is not there", func(t *testing.T) {
		o := h.runSpecWith(t, forefend, &options.Options{BinaryName: "/nonexistent/runc"}, func(spec) {}, "echo", "ran")
		if o.err == nil || !strings.Contains(o.err.Error(), "/nonexistent/runc") {
			t.Errorf("%+v", o)
		}
		h.remove(o.id)
		h.noLeaks(t)
	})
}

// failing is a part of a shell script in the place of runc that does then when verb is asked for.
func failing(verb, then string) string {
	return fmt.Sprintf("for a in \"$@\"; do if [ \"$a\" = %s ]; then %s; fi; done\n", verb, then)
}

func runcFails(t *testing.T, h *host, script string) {
	runc := filepath.Join(h.BinDir, "runc")
	path := h.file(t, h.newID("runc"), "#!/bin/sh\n"+strings.ReplaceAll(script, "REAL", runc)+"exec "+runc+" \"$@\"\n")
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	o := h.runSpecWith(t, forefend, &options.Options{BinaryName: path}, func(spec) {}, "echo", "ran")
	if o.err == nil || o.output != "" {
		t.Errorf("%+v", o)
	}
	h.remove(o.id)
	h.noLeaks(t)
	h.mustRun(t, sh("true").named(o.id))
}

// noPlaceFor puts a file where Forefend wants a directory.
func noPlaceFor(t *testing.T, h *host, dir string) {
	aside, id := dir+".aside", h.newID("fails")
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := h.run(sh("echo ran").named(id))
	if r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, "not a directory") {
		t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	h.remove(id)
	if err := errors.Join(os.Remove(dir), os.Rename(aside, dir)); err != nil {
		t.Fatal(err)
	}
	h.noLeaks(t)
	h.mustRun(t, sh("true").named(id))
}
