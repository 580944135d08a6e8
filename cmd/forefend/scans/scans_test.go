package scans

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"forefend.dev/forefend/predictor/evidence"
	"forefend.dev/forefend/runtime/workload"
)

func facts(digest string, args ...string) workload.Facts {
	return workload.Facts{
		Args: args, Path: "/bin", Cwd: "/", Rootfs: []string{"/upper", "/2", "/1"}, Image: workload.Image{Digest: digest},
	}
}

// bench is a Scans whose scanner does what a test says.
type bench struct {
	*Scans
	mu       sync.Mutex
	asked    []Request // guarded by mu
	outcomes []string  // guarded by mu
	answer   func(Request) (evidence.Scan, error)
}

func newBench(dir string, wait time.Duration) *bench {
	b := &bench{answer: func(Request) (evidence.Scan, error) {
		return evidence.Scan{Version: evidence.ScanVersion, Syscalls: []string{"read"}}, nil
	}}
	b.Scans = New(Options{Results: dir, Bytes: 1 << 20, Wait: wait,
		Scan: func(_ context.Context, r Request) (evidence.Scan, error) {
			b.mu.Lock()
			b.asked = append(b.asked, r)
			b.mu.Unlock()
			return b.answer(r)
		},
		Done: func(outcome string, _ time.Duration) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.outcomes = append(b.outcomes, outcome)
		},
	})
	return b
}

func TestFirstContainerWaitsTheNextDoesNot(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(dir, 2*time.Second)
		b.answer = func(Request) (evidence.Scan, error) {
			time.Sleep(500 * time.Millisecond) // of the bubble: the scanner's time
			return evidence.Scan{Version: evidence.ScanVersion, Syscalls: []string{"read"}}, nil
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		f := facts("sha256:a", "server")
		scan, wait, err := b.Lookup(f)
		if scan != nil || wait != 2*time.Second || !errors.Is(err, ErrPending) {
			t.Errorf("%v, wait %v: %v", scan, wait, err)
		}
		began := time.Now()
		b.Await(ctx, f)
		if took := time.Since(began); took != 500*time.Millisecond {
			t.Errorf("waited %v", took)
		}
		scan, wait, err = b.Lookup(f)
		if scan == nil || wait != 0 || err != nil || scan.Key == "" {
			t.Errorf("%v, wait %v: %v", scan, wait, err)
		}
		stop()
		running.Wait()
		if len(b.asked) != 1 || !slices.Equal(b.asked[0].Layers, []string{"/2", "/1"}) || !slices.Equal(b.outcomes, []string{OutcomeOK}) {
			t.Errorf("%+v %v", b.asked, b.outcomes)
		}
		// The next daemon finds it on disk.
		next := newBench(dir, time.Second)
		if again, _, err := next.Lookup(f); err != nil || !slices.Equal(again.Syscalls, scan.Syscalls) {
			t.Errorf("%v: %v", again, err)
		}
	})
}

// A scan that takes longer than anybody waits holds up its first container once, and later ones not longer than it.
func TestAwaitEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(dir, 2*time.Second)
		f := facts("sha256:a", "server")
		began := time.Now()
		_, _, _ = b.Lookup(f) // nobody scans
		b.Await(t.Context(), f)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %v", took)
		}
		if _, wait, err := b.Lookup(f); wait != 0 || !errors.Is(err, ErrPending) {
			t.Errorf("the next is to wait %v: %v", wait, err)
		}
		b.Await(t.Context(), f)
		b.Await(t.Context(), facts("sha256:other", "server"))
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("waited %v", took)
		}
	})
}

func TestAFailureIsNotTriedAtOnceAgain(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(dir, time.Second)
		b.answer = func(Request) (evidence.Scan, error) { return evidence.Scan{}, errors.New("damaged ELF") }
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Run(ctx) })
		f := facts("sha256:a", "server")
		_, _, _ = b.Lookup(f)
		b.Await(ctx, f)
		if _, wait, err := b.Lookup(f); err == nil || errors.Is(err, ErrPending) || wait != 0 || !strings.Contains(err.Error(), "damaged ELF") {
			t.Errorf("wait %v: %v", wait, err)
		}
		time.Sleep(retryAfter + time.Second)
		if _, _, err := b.Lookup(f); !errors.Is(err, ErrPending) {
			t.Error(err)
		}
		stop()
		running.Wait()
	})
}

func TestQueueIsBounded(t *testing.T) {
	b := newBench(t.TempDir(), time.Second)
	for i := range maxQueue + 10 {
		_, _, _ = b.Lookup(facts(fmt.Sprint(i), "x"))
	}
	if len(b.queue) != maxQueue || len(b.outcomes) != 10 || b.outcomes[0] != OutcomeDropped {
		t.Errorf("%d wait, %v", len(b.queue), b.outcomes)
	}
}

func TestKeys(t *testing.T) {
	key := func(change func(*workload.Facts)) string {
		f := facts("sha256:a", "server", "-v")
		change(&f)
		r, _ := RequestOf(f)
		return r.Key
	}
	same := key(func(*workload.Facts) {})
	for name, change := range map[string]func(*workload.Facts){
		"another container": func(f *workload.Facts) { f.Rootfs = []string{"/upper2", "/2", "/1"} },
		"layers elsewhere":  func(f *workload.Facts) { f.Rootfs = []string{"/upper", "/b", "/a"} },
		"another user":      func(f *workload.Facts) { f.User = "u" },
	} {
		if key(change) != same {
			t.Errorf("%s: scanned again", name)
		}
	}
	seen := map[string]string{same: "the same"}
	for name, change := range map[string]func(*workload.Facts){
		"digest": func(f *workload.Facts) { f.Image.Digest = "sha256:b" }, "command": func(f *workload.Facts) { f.Args = []string{"server -v"} },
		"path": func(f *workload.Facts) { f.Path = "/sbin" }, "directory": func(f *workload.Facts) { f.Cwd = "/x" },
		"environment": func(f *workload.Facts) { f.Env = []string{"LD_PRELOAD=/x.so"} },
		"no image":    func(f *workload.Facts) { f.Image.Digest = "" },
		"a directory": func(f *workload.Facts) { f.Image.Digest, f.Rootfs, f.Executable.SHA256 = "", []string{"/dir"}, "ff" },
	} {
		k := key(change)
		if k == "" || seen[k] != "" {
			t.Errorf("%s: key %q is that of %s", name, k, seen[k])
		}
		seen[k] = name
	}
	for _, f := range []workload.Facts{{}, {Args: []string{"x"}}, {Args: []string{"x"}, Rootfs: []string{"/dir"}}} {
		if _, ok := RequestOf(f); ok {
			t.Errorf("%+v can be scanned", f)
		}
	}
}

func TestShelf(t *testing.T) {
	s := shelf{t.TempDir(), 4 << 10}
	scan := func(key string) *evidence.Scan {
		return &evidence.Scan{Version: evidence.ScanVersion, Key: key, Entry: strings.Repeat("x", 1000)}
	}
	old := time.Now().Add(-time.Hour)
	for i := range 3 {
		key := fmt.Sprint("k", i)
		if err := s.write(scan(key)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(s.path(key), old, old.Add(time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.read("k0"); err != nil { // used: it is not the next to go
		t.Error(err)
	}
	for i := range 2 {
		if err := s.write(scan(fmt.Sprint("n", i))); err != nil {
			t.Fatal(err)
		}
	}
	for key, there := range map[string]bool{"k0": false, "k1": false, "n0": true, "n1": true} {
		if _, err := s.read(key); (err == nil) != there && key != "k0" {
			t.Errorf("%s: %v", key, err)
		}
	}
	for name, text := range map[string]string{"damaged": "{", "other": `{"version":1,"key":"x"}`, "older": `{"version":0,"key":"older"}`} {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.read(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	left := filepath.Join(s.dir, ".new-1")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.tidy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Error("what a writer left stays")
	}
}

func TestArguments(t *testing.T) {
	r := Request{Layers: []string{"/2", "/1"}, Args: []string{"--json", "x"}, Env: []string{"PATH=/bin"}, Cwd: "/c"}
	got := strings.Join(r.arguments("/cache", "/osv.zip"), " ")
	if want := "--json --rootfs /2 --rootfs /1 --env PATH=/bin --cwd /c --cache /cache --osv /osv.zip -- --json x"; got != want {
		t.Errorf("got %s", got)
	}
}

// What is in memory is rated again when what rates has changed; who holds the old one sees nothing of it.
func TestRerate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b, f := newBench(dir, time.Second), facts("sha256:a", "server")
		rating := 0.1
		b.o.Rate = func(s *evidence.Scan) {
			for i := range s.Vulnerabilities {
				s.Vulnerabilities[i].Exploited = rating
			}
		}
		b.answer = func(Request) (evidence.Scan, error) {
			return evidence.Scan{Version: evidence.ScanVersion, Vulnerabilities: []evidence.Vulnerability{{ID: "CVE-2024-0001"}}}, nil
		}
		b.remember(&result{key: "failed", err: errors.New("failed")})
		ctx, stop := context.WithCancel(t.Context())
		go b.Run(ctx)
		_, _, _ = b.Lookup(f)
		b.Await(t.Context(), f)
		first, _, _ := b.Lookup(f)
		rating = 0.9
		b.Rerate()
		second, _, _ := b.Lookup(f)
		if first.Vulnerabilities[0].Exploited != 0.1 || second.Vulnerabilities[0].Exploited != 0.9 {
			t.Errorf("%+v, then %+v", first.Vulnerabilities, second.Vulnerabilities)
		}
		stop()
	})
}
