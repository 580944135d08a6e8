package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/workload"
	"forefend.dev/forefend/test/processor"
)

const elf32, elf64 = "\x7fELF\x01rest", "\x7fELF\x02rest"

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestExecutable(t *testing.T) {
	dir := build(t, map[string]string{
		"usr/bin/server": "!" + elf64, "usr/bin/script": "!#!/bin/sh\n", "opt/server": "!" + elf32, "bin": "->usr/bin",
		"usr/sbin/server": "not executable", "srv/local": "!" + elf32, "opt/odd": "!\x7fELF\x09", "opt/short": "!\x7fEL",
		"usr/sbin/dir/": "", "usr/bin/dir": "!d", "usr/sbin/pipe": "fifo", "usr/bin/pipe": "!p", "srv/sub/": "", "sublink": "->srv/sub",
	})
	const path = "/missing:/usr/sbin:/bin:/opt"
	for _, c := range []struct {
		name, arg, path, cwd string
		want                 workload.Executable
		err                  error
	}{
		{"first in PATH that may be executed", "server", path, "/", workload.Executable{Path: "/usr/bin/server", SHA256: sha(elf64), Bits: 64}, nil},
		{"absolute", "/opt/server", "", "/", workload.Executable{Path: "/opt/server", SHA256: sha(elf32), Bits: 32}, nil},
		{"relative to the working directory", "./local", path, "/srv", workload.Executable{Path: "/srv/local", SHA256: sha(elf32), Bits: 32}, nil},
		{"up from it", "../opt/server", path, "/srv", workload.Executable{Path: "/opt/server", SHA256: sha(elf32), Bits: 32}, nil},
		{"where its link leads", "../local", path, "/sublink", workload.Executable{Path: "/srv/local", SHA256: sha(elf32), Bits: 32}, nil},
		{"no working directory", "opt/server", path, "", workload.Executable{Path: "/opt/server", SHA256: sha(elf32), Bits: 32}, nil},
		{"a script is itself", "script", path, "/", workload.Executable{Path: "/usr/bin/script", SHA256: sha("#!/bin/sh\n")}, nil},
		{"an ELF class nobody knows", "odd", path, "/", workload.Executable{Path: "/opt/odd", SHA256: sha("\x7fELF\x09")}, nil},
		{"too short for ELF", "short", path, "/", workload.Executable{Path: "/opt/short", SHA256: sha("\x7fEL")}, nil},
		{"directories are passed over", "dir", path, "/", workload.Executable{Path: "/usr/bin/dir", SHA256: sha("d")}, nil},
		{"and FIFOs", "pipe", path, "/", workload.Executable{Path: "/usr/bin/pipe", SHA256: sha("p")}, nil},
		{"not there", "nothing", path, "/", workload.Executable{}, fs.ErrNotExist},
		{"no PATH", "server", "", "/", workload.Executable{}, fs.ErrNotExist},
		{"relative PATH, which runc refuses", "local", "srv:/opt", "/", workload.Executable{}, fs.ErrNotExist},
		{"empty PATH element, which runc refuses", "local", ":/opt", "/srv", workload.Executable{}, fs.ErrNotExist},
		{"not executable", "/usr/sbin/server", path, "/", workload.Executable{}, fs.ErrPermission},
		{"a directory", "/usr/bin", path, "/", workload.Executable{}, fs.ErrInvalid},
		{"empty", "", path, "/", workload.Executable{}, fs.ErrInvalid},
		{"long PATH", "server", strings.Repeat("/x:", 1000) + "/opt", "/", workload.Executable{}, fs.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Open([]string{dir}).Executable(t.Context(), []string{c.arg, "arg"}, c.path, c.cwd)
			if got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got  %+v, %v\nwant %+v, %v", got, err, c.want, c.err)
			}
			cached, err := NewCache(1).Executable(t.Context(), []string{dir}, []string{c.arg}, c.path, c.cwd)
			if cached != c.want || !errors.Is(err, c.err) {
				t.Errorf("by cache: %+v, %v", cached, err)
			}
		})
	}
	if _, err := Open(nil).Executable(t.Context(), nil, "", ""); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no arguments: %v", err)
	}
}

func TestHugeProgramsAreNotHashed(t *testing.T) {
	dir := build(t, map[string]string{"huge": "!" + elf64})
	if err := os.Truncate(filepath.Join(dir, "huge"), MaxHash+1); err != nil { // sparse
		t.Fatal(err)
	}
	start := processor.Used(t)
	got, err := Open([]string{dir}).Executable(t.Context(), []string{"/huge"}, "", "")
	if want := (workload.Executable{Path: "/huge", Bits: 64}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if took := processor.Used(t) - start; took > time.Second/5 {
		t.Errorf("took %v", took)
	}
}

func TestCancelledContextEndsHashing(t *testing.T) {
	dir := build(t, map[string]string{"big": "!" + elf64})
	if err := os.Truncate(filepath.Join(dir, "big"), MaxHash); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open([]string{dir}).Executable(ctx, []string{"/big"}, "", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("tree: %v", err)
	}
	c := NewCache(1)
	if _, err := c.Executable(ctx, []string{dir}, []string{"/big"}, "", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cache: %v", err)
	}
	if len(c.known) != 0 || len(c.work) != 0 {
		t.Errorf("a cancelled hash is remembered: %d known, %d under way", len(c.known), len(c.work))
	}
}

func TestCacheRemembersAndForgets(t *testing.T) {
	dir := build(t, map[string]string{"a": "!a", "b": "!b", "c": "!c"})
	c := NewCache(2)
	ask := func(name, want string) {
		t.Helper()
		got, err := c.Executable(t.Context(), []string{dir}, []string{"/" + name}, "", "")
		if err != nil || got.SHA256 != sha(want) {
			t.Errorf("%s: %+v, %v; want the hash of %q", name, got, err, want)
		}
	}
	known := func(name string) bool {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		id, err := identify(f)
		if err != nil {
			t.Fatal(err)
		}
		_, ok := c.known[id]
		return ok
	}
	ask("a", "a")
	ask("b", "b")
	ask("a", "a")
	ask("c", "c")
	if !known("a") || known("b") || !known("c") || c.recent.Len() != 2 {
		t.Errorf("kept a %v, b %v, c %v of %d; want a and c", known("a"), known("b"), known("c"), c.recent.Len())
	}
	// A known file is not read again: what the cache says is believed.
	for id, e := range c.known {
		e.Value = entry{id, content{sha256: "remembered"}}
	}
	got, err := c.Executable(t.Context(), []string{dir}, []string{"/a"}, "", "")
	if err != nil || got.SHA256 != "remembered" {
		t.Errorf("read again: %+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("changed"), 0o755); err != nil {
		t.Fatal(err)
	}
	ask("a", "changed")
}

func TestCacheHashesOnceForManyAtOnce(t *testing.T) {
	dir := build(t, map[string]string{"p": "!" + strings.Repeat("x", 1<<20)})
	c := NewCache(10)
	f, err := os.Open(filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := identify(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, busy, ok := c.claim(id); busy != nil || ok { // the test is the first to ask
		t.Fatal("claimed already")
	}
	var wg sync.WaitGroup
	results := make(chan string, 50)
	for range 50 {
		wg.Go(func() {
			got, err := c.Executable(t.Context(), []string{dir}, []string{"/p"}, "", "")
			results <- fmt.Sprint(got.SHA256, err)
		})
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Executable(short, []string{dir}, []string{"/p"}, "", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting beyond its deadline: %v", err)
	}
	c.finish(id, content{sha256: "found once"}, nil)
	wg.Wait()
	for range 50 {
		if got := <-results; got != "found once<nil>" {
			t.Errorf("got %s", got)
		}
	}
}

// The next in line takes over when the first fails.
func TestCacheSurvivesAFailure(t *testing.T) {
	dir := build(t, map[string]string{"p": "!x"})
	c := NewCache(10)
	f, err := os.Open(filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := identify(f)
	if err != nil {
		t.Fatal(err)
	}
	c.claim(id)
	done := make(chan string)
	go func() {
		got, err := c.Executable(t.Context(), []string{dir}, []string{"/p"}, "", "")
		done <- fmt.Sprint(got.SHA256, err)
	}()
	c.finish(id, content{}, context.Canceled)
	if got := <-done; got != sha("x")+"<nil>" {
		t.Errorf("got %s", got)
	}
}

func BenchmarkCachedExecutable(b *testing.B) {
	layers := []string{b.TempDir()}
	for range 6 {
		layers = append(layers, build(b, map[string]string{"usr/sbin/server": "!" + elf64, "usr/bin/": "", "sbin": "->usr/sbin"}))
	}
	c := NewCache(10)
	for b.Loop() {
		if _, err := c.Executable(b.Context(), layers, []string{"server"}, "/usr/local/sbin:/usr/local/bin:/usr/sbin", "/"); err != nil {
			b.Fatal(err)
		}
	}
}
