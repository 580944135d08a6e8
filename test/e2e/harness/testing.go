package harness

import (
	"testing"

	"forefend.dev/forefend/test/root"
)

// New is Start for a root test. The environment is closed when the test ends, and anything it left behind fails the
// test; when the test failed, the ends of containerd's log (with the shims' lines) and of the daemon's are shown.
func New(t testing.TB, opts ...Option) *Env {
	t.Helper()
	root.Test(t)
	e, err := Start(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if e.Dir == "" {
			return // the test closed it
		}
		log, daemonLog := tail(e.ContainerdLog(), 6000), tail(e.DaemonLog(), 6000)
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of containerd's log:\n%s\nend of Forefend's:\n%s", log, daemonLog)
		}
	})
	return e
}
