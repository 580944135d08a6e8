package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"forefend.dev/forefend/predictor/evidence"
)

// try runs a step of evil in the sandbox, over a root filesystem of its own.
func try(t *testing.T, step string, cache bool, limits Limits) (evidence.Scan, error) {
	t.Helper()
	if Cgo {
		t.Skip(ErrCgo)
	}
	root, store := image(t), ""
	if cache {
		store = t.TempDir()
		if os.Getuid() == 0 {
			for dir := store; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
				if err := os.Chmod(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chown(store, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	return Run(t.Context(), "/proc/self/exe", []string{"evil", step, root, store}, limits)
}

func image(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, mode := range map[string]os.FileMode{"file": 0o666, "secret": 0, "program": 0o755} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.WriteFile(path, []byte("text"), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(root, "escape")); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestNothingGetsOut(t *testing.T) {
	for step := range steps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			scan, err := try(t, step, false, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if len(scan.Errors) != 1 || !refusal(scan.Errors[0]) {
				t.Errorf("%s: %q, want a refusal", step, scan.Errors)
			}
		})
	}
}

// refusal tells whether an error comes from the sandbox rather than from a step that would have failed anyway.
func refusal(s string) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EXDEV} {
		if strings.Contains(s, e.Error()) {
			return true
		}
	}
	return false
}

// Outside the sandbox the same steps work, or fail for another reason: the test above can fail.
func TestTheStepsAreReal(t *testing.T) {
	root := image(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, step := range []string{"write inside", "make inside", "truncate", "chmod", "link", "connect", "unix socket", "memfd",
		"start a program", "executable pages", "make executable", "shared memory", "open for writing, by number", "remove"} {
		if err := steps[step](root); err != nil {
			t.Errorf("%s fails without the sandbox too: %v", step, err)
		}
	}
}

func TestWhatAScannerNeeds(t *testing.T) {
	for _, cache := range []bool{false, true} {
		scan, err := try(t, "honest", cache, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if len(scan.Errors) > 0 {
			t.Errorf("with cache %v: %q", cache, scan.Errors)
		}
	}
}

func TestCacheIsNotTheRoot(t *testing.T) {
	for _, step := range []string{"write inside", "make inside", "remove", "truncate", "read outside", "make in /tmp", "chmod"} {
		scan, err := try(t, step, true, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if len(scan.Errors) != 1 || !refusal(scan.Errors[0]) {
			t.Errorf("%s with a cache: %q, want a refusal", step, scan.Errors)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	_, err := try(t, "allocate", false, Limits{})
	var failed *FailedError
	if !errors.As(err, &failed) || strings.Contains(failed.Stderr, "allocated") {
		t.Fatalf("allocating 4 GiB: %v, want a failure", err)
	}
	if !strings.Contains(err.Error(), "out of memory") {
		t.Errorf("the error does not tell the reason: %v", err)
	}
}

func TestTimeIsBounded(t *testing.T) {
	for _, step := range []string{"loop", "wait"} {
		began := time.Now()
		_, err := try(t, step, false, Limits{Time: time.Second})
		if !errors.Is(err, ErrTime) {
			t.Errorf("%s: %v, want ErrTime", step, err)
		}
		if took := time.Since(began); took > time.Minute { // "wait" would wait for ever
			t.Errorf("%s ended after %v", step, took)
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	if _, err := try(t, "print", false, Limits{}); !errors.Is(err, ErrOutput) {
		t.Errorf("endless output: %v, want ErrOutput", err)
	}
	if _, err := try(t, "nonsense", false, Limits{}); !errors.Is(err, ErrOutput) {
		t.Errorf("nonsense: %v, want ErrOutput", err)
	}
}

func TestFailureTellsWhy(t *testing.T) {
	_, err := try(t, "panic", false, Limits{})
	var failed *FailedError
	if !errors.As(err, &failed) || failed.Code != 2 || !strings.Contains(failed.Stderr, "met its match") {
		t.Errorf("panic: %v", err)
	}
}

func TestCallerCancels(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pid := 0
	limits := Limits{Started: func(p int) error { pid = p; cancel(); return nil }}
	_, err := Run(ctx, "/proc/self/exe", []string{"evil", "wait", image(t), ""}, limits)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is left: %v", pid, err)
	}
}

func TestRefusedPlacementEndsTheScan(t *testing.T) {
	no := errors.New("no such cgroup")
	_, err := try(t, "wait", false, Limits{Started: func(int) error { return no }})
	if !errors.Is(err, no) {
		t.Errorf("%v, want %v", err, no)
	}
}

func TestAnotherFormatIsRefused(t *testing.T) {
	if _, err := decode([]byte(`{"version": 999}`)); !errors.Is(err, ErrOutput) {
		t.Errorf("version 999: %v, want ErrOutput", err)
	}
	if scan, err := decode([]byte(`{"version": 1, "entry": "/bin/x", "unheard": 1}`)); err != nil || scan.Entry != "/bin/x" {
		t.Errorf("got %+v, %v", scan, err)
	}
}

func TestMissingError(t *testing.T) {
	err := error(&MissingError{Feature: "Landlock", Since: "5.13", Err: unix.ENOSYS})
	if !errors.Is(err, ErrUnsupported) || !errors.Is(err, unix.ENOSYS) || !strings.Contains(err.Error(), "5.13") {
		t.Errorf("%v", err)
	}
}

func TestCgoIsRefused(t *testing.T) {
	if !Cgo {
		t.Skip("this binary was built without cgo")
	}
	if err := Enter(Confinement{}); !errors.Is(err, ErrCgo) {
		t.Errorf("%v, want ErrCgo", err)
	}
}
