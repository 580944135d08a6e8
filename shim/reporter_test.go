package shim

import (
	"testing"

	"github.com/containerd/errdefs"

	"forefend.dev/forefend/runtime/workload"
)

// TestUnsentCheckpoints: what could not be sent is sent later. A container that has become quiet since has no other checkpoint for minutes, and its
// last one may have been urgent.
func TestUnsentCheckpoints(t *testing.T) {
	r := &reporter{
		link: newLink(Config{Socket: t.TempDir() + "/nobody"}), spool: t.TempDir(), wake: make(chan struct{}, 1),
		checkpoints: make(map[string]workload.Observation), ended: make(map[string]bool),
	}
	seen := func(run string, to ...string) workload.Observation {
		o := workload.Observation{Run: run, Destinations: make(map[string]uint64)}
		for _, name := range to {
			o.Destinations[name] = 1
		}
		return o
	}
	for _, run := range []string{"quiet", "busy", "ended", "spooled"} {
		r.checkpoint(seen(run, "tcp/192.0.2.1:443"))
	}
	req := r.takeLocked() // and it is sent, in vain. Meanwhile:
	r.checkpoint(seen("busy", "tcp/192.0.2.1:443", "tcp/192.0.2.2:443"))
	last := seen("ended")
	last.Final = true
	r.final(last, r.decisions["ended"])
	r.sent(req, errdefs.ErrUnavailable)
	if n := len(r.checkpoints["busy"].Destinations); n != 2 {
		t.Errorf("an older checkpoint took the place of a newer one: %d destinations", n)
	}
	if _, back := r.checkpoints["ended"]; back {
		t.Error("a run that has ended goes on")
	}
	if n := len(r.checkpoints["quiet"].Destinations); n != 1 {
		t.Errorf("what a quiet container did is forgotten: %d destinations", n)
	}
	last.Run = "spooled"
	r.final(last, r.decisions["spooled"]) // puts all else back
	if _, ok := r.checkpoints["quiet"]; !ok || len(r.checkpoints) != 2 {
		t.Errorf("after the end of another run there are %d checkpoints", len(r.checkpoints))
	}
	if r.sending != 0 || len(r.ended) != 0 {
		t.Errorf("%d send, %d runs are remembered", r.sending, len(r.ended))
	}
	r.sent(r.takeLocked(), errdefs.ErrInvalidArgument)
	if len(r.checkpoints) != 0 {
		t.Error("what the daemon refuses is sent again")
	}
}
