package e2e

import (
	"sync/atomic"
	"testing"

	"forefend.dev/forefend/test/e2e/harness"
	"forefend.dev/forefend/test/root"
)

// outside is the rest of the world as containers of a test see it.
type outside struct{ *harness.World }

// worldPort is where it echoes, by TCP and UDP; mining pools have others, and contacts with those are a risk.
const worldPort = "4242"

func newOutside(t testing.TB) *outside {
	t.Helper()
	root.Test(t)
	w, err := harness.NewWorld()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.Echo(worldPort); err != nil {
		t.Fatal(err)
	}
	return &outside{w}
}

// link connects the network namespace of a process, and returns its address there.
func (o *outside) link(t testing.TB, pid int) string {
	t.Helper()
	address, _, err := o.Link(pid)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// web serves HTTP in a world, where it tells its name, and counts who came.
func web(t testing.TB, w *harness.World, name string) *atomic.Int64 {
	t.Helper()
	asked, err := w.Serve(name)
	if err != nil {
		t.Fatal(err)
	}
	return asked
}

// names runs a name server in the world.
func (o *outside) names(t testing.TB, args ...string) {
	t.Helper()
	stop, err := o.NameServer(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// gateway is one with a web server behind it.
type gateway struct {
	*harness.Gateway
	asked *atomic.Int64 // requests that came through it
}

func newGateway(t testing.TB, name, encryption string) *gateway {
	t.Helper()
	root.Test(t)
	g, err := harness.NewGateway(name, encryption)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return &gateway{Gateway: g, asked: web(t, g.World, name)}
}
