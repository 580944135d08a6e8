package doctor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/runtime/record"
	"forefend.dev/forefend/runtime/workload"
)

func newSite(t *testing.T) Site {
	t.Helper()
	dir := t.TempDir()
	return Site{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "run"), Store: filepath.Join(dir, "root", "store"),
		Spool: filepath.Join(dir, "root", "spool"), Containers: record.Dir(filepath.Join(dir, "run", "c"))}
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// beside the disks, which depend on where this runs, a site has these rows.
func besideDisks(t *testing.T, s Site, now time.Time) []string {
	t.Helper()
	return slices.DeleteFunc(states(t, s.Rows(now)), func(r string) bool { return strings.HasPrefix(r, "disk of ") })
}

func TestSiteThatIsFresh(t *testing.T) {
	s := newSite(t)
	if got := besideDisks(t, s, time.Now()); len(got) > 0 {
		t.Errorf("%q", got)
	}
	if rows := s.Rows(time.Now()); len(rows) != 2 {
		t.Errorf("%+v", rows)
	}
}

func TestSpaceThatIsShort(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		free, whole, files, freeFiles uint64
		want                          State
	}{
		{1000 * mib, 2000 * mib, 0, 0, OK},
		{10 * mib, 2000 * mib, 0, 0, Degraded},
		{900 * mib, 1 << 40, 0, 0, Degraded}, // less than a hundredth
		{2000 * mib, 1 << 40, 0, 0, OK},      // enough, however large the whole
		{1000 * mib, 2000 * mib, 100000, 10, Degraded},
	} {
		r := space("disk", "/x", c.free, c.whole, c.files, c.freeFiles, leastRoot, Degraded, "history cannot be kept")
		told(t, r)
		if r.State != c.want {
			t.Errorf("%+v: %+v", c, r)
		}
	}
	r := disk("disk", "/proc/self/environ/x", leastRoot, Missing, "records cannot be written")
	told(t, r)
	if r.State != Missing {
		t.Errorf("a place that cannot be: %+v", r)
	}
}

func TestSiteWithDamage(t *testing.T) {
	s := newSite(t)
	put(t, filepath.Join(s.Store, "set-aside", "runs-7-0123"))
	put(t, filepath.Join(s.Store, "set-aside", "runs-7-0123.why"))
	put(t, filepath.Join(s.Spool, "run.json.damaged"))
	put(t, filepath.Join(string(s.Containers), "default", "web", "record.json"))
	if got, want := besideDisks(t, s, time.Now()), []string{"store degraded", "spool degraded", "records degraded"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	s.Daemon = true // which names what was set aside itself
	if got, want := besideDisks(t, s, time.Now()), []string{"spool degraded", "records degraded"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSpoolThatWaits(t *testing.T) {
	s := newSite(t)
	put(t, filepath.Join(s.Spool, "run.json"))
	put(t, filepath.Join(s.Spool, ".half.json"))
	now := time.Now()
	if got := besideDisks(t, s, now); !slices.Equal(got, []string{"spool degraded"}) {
		t.Errorf("without a daemon: %q", got)
	}
	s.Daemon = true
	if got := besideDisks(t, s, now); len(got) > 0 {
		t.Errorf("about to be taken in: %q", got)
	}
	if got := besideDisks(t, s, now.Add(time.Hour)); !slices.Equal(got, []string{"spool degraded"}) {
		t.Errorf("overdue: %q", got)
	}
}

func TestRecordsOfContainers(t *testing.T) {
	s := newSite(t)
	tools(t, map[string]string{shimName: "exit 0"})
	now := time.Now()
	write := func(name string, pid int, start uint64) {
		t.Helper()
		if err := s.Containers.Write(record.Record{ID: workload.ID{Namespace: "default", Container: name}, ShimPID: pid, ShimStart: start,
			Created: now, Decision: &api.Decision{}}); err != nil {
			t.Fatal(err)
		}
	}
	start, err := record.Start(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	write("alive", os.Getpid(), start) // this process plays a shim, of a build that is not the installed one
	if got, want := besideDisks(t, s, now), []string{"running shims degraded", "daemon degraded"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	s.Daemon = true
	dead := exec.Command("/bin/true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	write("dead", dead.Process.Pid, 1)
	if got, want := besideDisks(t, s, now), []string{"running shims degraded"}; !slices.Equal(got, want) {
		t.Errorf("just died: %q, want %q", got, want)
	}
	if got, want := besideDisks(t, s, now.Add(time.Hour)), []string{"records degraded", "running shims degraded"}; !slices.Equal(got, want) {
		t.Errorf("dead for long: %q, want %q", got, want)
	}
	// The installed build is this one after all.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, shimName)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if got := besideDisks(t, s, now); len(got) > 0 {
		t.Errorf("%q", got)
	}
}
