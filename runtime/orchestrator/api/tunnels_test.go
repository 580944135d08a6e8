package api

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// tunnels is Tunnels by a name that is none of its methods.
type tunnels = Tunnels

// numbering answers WayChanges, and nothing else.
type numbering struct {
	tunnels
	asked WayChangesRequest
}

func (n *numbering) WayChanges(_ context.Context, r WayChangesRequest) (WayChangesResponse, error) {
	n.asked = r
	return WayChangesResponse{Last: 9}, nil
}

// TestWayChangesOfBefore: shims of releases that knew drains alone ask as they did, and are answered; ours ask theirs.
func TestWayChangesOfBefore(t *testing.T) {
	n := &numbering{}
	conn, err := net.Dial("unix", serveBy(t, func(s *ttrpc.Server) { RegisterTunnels(s, n) }))
	if err != nil {
		t.Fatal(err)
	}
	raw := ttrpc.NewClient(conn)
	defer raw.Close()
	var out wrapperspb.BytesValue
	err = raw.Call(t.Context(), "forefend.tunneld.v1.Tunnels", "Drains", wrapperspb.Bytes([]byte(`{"namespace":7,"after":8,"wait":30000000000}`)), &out)
	want := WayChangesRequest{Namespace: 7, After: 8, Wait: 30 * time.Second}
	if err != nil || string(out.Value) != `{"last":9}` || n.asked != want {
		t.Errorf("asked as before: %s, %+v, %v", out.Value, n.asked, err)
	}

	before := func(s *ttrpc.Server) {
		s.RegisterService("forefend.tunneld.v1.Tunnels", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"Drains": method(n.WayChanges)}})
	}
	c, err := DialTunnels(t.Context(), serveBy(t, before))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want.After = 5
	if got, err := c.WayChanges(t.Context(), want); err != nil || got.Last != 9 || n.asked != want {
		t.Errorf("a tunneld of before is asked %+v: %+v, %v", n.asked, got, err)
	}
}
