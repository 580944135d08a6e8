package tunnel

import (
	"testing"
	"time"

	"forefend.dev/forefend/netns/flow"
	"forefend.dev/forefend/runtime/orchestrator/api"
	"forefend.dev/forefend/test/root"
)

// TestRootReload: a tunnel that the configuration has no more is cut, the one beside it goes on with the same device, and a new one is
// there for who asks.
func TestRootReload(t *testing.T) {
	root.Test(t)
	ctx := t.Context()
	one, two, three := newGateway(t), newGateway(t), newGateway(t)
	a, b, other := one.tunnel(t, "a", 1), two.tunnel(t, "b", 1), three.tunnel(t, "c", 1)
	s, _ := serve(t, t.TempDir(), a, b)
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	attach := func(name string) (api.Attached, error) {
		return s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard, Endpoint: name}})
	}
	first, err := attach("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attach("b"); err != nil {
		t.Fatal(err)
	}
	shaken := func() time.Time {
		list, err := s.Tunnels(ctx)
		if err != nil || len(list.Tunnels[0].Uses) != 1 {
			t.Fatalf("%+v, %v", list, err)
		}
		return list.Tunnels[0].Uses[0].Handshake
	}
	eventually(t, "a handshake", func() bool { return !shaken().IsZero() })
	before := shaken()
	more := a
	more.Slots = append(more.Slots[:1:1], other.Slots...)
	if err := s.Reload(ctx, []Tunnel{more, other}); err != nil {
		t.Fatal(err)
	}
	if got := devices(t, c); len(got) != 1 || got[0] != first.Device {
		t.Errorf("devices %v, want %s alone", got, first.Device)
	}
	if same, err := attach("a"); err != nil || same != first || !shaken().Equal(before) {
		t.Errorf("the one that stayed: %+v, %v", same, err)
	}
	if _, err := attach("b"); err == nil {
		t.Error("the one that is gone is still given out")
	}
	if got, err := attach("c"); err != nil || got.Tunnel != "c" {
		t.Errorf("the new one: %+v, %v", got, err)
	}
}

// TestRootMarkIsNotGivenOn: while an interceptor may still go by what it was told of a tunnel, that leads to no other one, which may be weaker:
// of a tunnel that is gone, and of one that is another one by now, to an earlier process, too.
func TestRootMarkIsNotGivenOn(t *testing.T) {
	root.Test(t)
	ctx, dir := t.Context(), t.TempDir()
	strong, weak := newGateway(t).tunnel(t, "strong", 1), newGateway(t).tunnel(t, "weak", 1)
	s, stop := serve(t, dir, strong, weak)
	c := newContainer(t)
	guarded, err := s.Guard(ctx, c.guard())
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[uint32]string)
	attach := func(name string) {
		t.Helper()
		a, err := s.Attach(ctx, api.AttachRequest{Namespace: guarded.Namespace, Profile: flow.Profile{Encryption: flow.Standard, Endpoint: name}})
		if err != nil {
			t.Fatal(err)
		}
		if before := told[a.Mark]; before != "" {
			t.Errorf("%s leaves by mark %#x and device %s, of which it was told that they are of %s", name, a.Mark, a.Device, before)
		}
		told[a.Mark] = name + " as it was"
	}
	attach("strong")
	if err := s.Reload(ctx, []Tunnel{weak}); err != nil {
		t.Fatal(err)
	}
	attach("weak")
	changed := weak
	changed.MTU = 1300
	stop()
	s, _ = serve(t, dir, changed)
	attach("weak")
}
